"""What those who arrange a stream of weights know of it, without torch: where its ends meet, what came of it, how it
fails."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


class StreamBroken(RuntimeError):
    """The connection is gone, or somebody has stopped: what was received is not whole."""


class StreamWrong(RuntimeError):
    """What has arrived is not what was sent; says which tensors."""


@dataclass(frozen=True)
class Rendezvous:
    """Where a sender and its receivers meet. Who met under this ``key`` before goes on with the same connection.

    ``size``: processes, the sender (rank 0) among them. ``way``: gloo or nccl. ``timeout_s``: of every wait.
    ``source``: whose weights: "learner" (by the names of a checkpoint) or "peer" (by those of an engine's own model).
    """

    host: str
    port: int
    key: str
    size: int
    way: str = "gloo"
    timeout_s: float = 60.0
    bucket_bytes: int = 32 * MIB
    version: int = 0
    source: str = "learner"


@dataclass(frozen=True)
class Receipt:
    """What one rank has sent or received: the ``digest`` of the checksums of all tensors, in order."""

    version: int
    tensors: int
    nbytes: int
    digest: str
    mapped: bool  # through memory that all ranks map
