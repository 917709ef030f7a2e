"""Where processes of torch.distributed meet: a TCP store that listens on one address, and who may enter."""

from __future__ import annotations

import socket
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore  # torch.distributed does not export its type


def open_meeting(host: str, size: int, timeout_s: float) -> TCPStore:
    """Where ``size`` ranks meet, in this process: listens on ``host`` alone, at a free port (``.port``)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((host, 0))
    listener.listen(size)
    port = listener.getsockname()[1]
    return TCPStore(
        host, port, size, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),
    )  # fmt: skip


def enter_meeting(host: str, port: int, size: int, timeout_s: float) -> TCPStore:
    """The same, seen from another process."""
    return TCPStore(host, port, size, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))


def interface_of(host: str) -> str:
    """Name of the network interface that has the address ``host``. Raises ValueError when none has."""
    import psutil  # where ranks meet: the learner alone needs it not

    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == host for entry in addresses):
            return str(name)
    raise ValueError(f"no network interface of this machine has the address {host}")
