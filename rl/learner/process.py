"""What runs in a process of the learner: a Ray actor owns the policy (or its shard), its optimiser and its threads.

actor = start_learner(policy_cfg, config, objective, run_dir)
metrics = ray.get(actor.step.remote(groups))
weights, size = actor.weights.options(num_returns=2).remote()   # object refs: workers take the first as it is

With ``learner.ranks`` above 1 the processes meet first (``rl.learner.group``), and every call is made by all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.rank_process import Meeting, RankProcess
from rl.objective.config import ObjectiveConfig
from rl.policy.handover import GroupRefs, opened
from rl.policy.importing import without_collector
from rl.policy.packed_weights import Packed, pack, packed_bytes
from rl.types import Group, ProbeScores, ReplayRecord

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from rl.learner.learner import Learner
    from rl.learner.ranks import Ranks
    from rl.policy.rendezvous import Receipt, Rendezvous
    from rl.policy.weight_stream import Links


class LearnerProcess(RankProcess):
    """What runs inside the actor; every method is one remote call."""

    def __init__(
        self,
        policy: Mapping[str, Any],
        config: LearnerConfig,
        objective: ObjectiveConfig,
        run_dir: str,
        replay: ReplayConfig | None = None,
        rank: int = 0,
        timeout_s: float = 600.0,
    ) -> None:
        """``policy``: a mapping for ``rl.policy.loading.build_policy``, e.g. {"path": directory}. ``timeout_s``: how
        long ranks wait for each other."""
        self._given = (policy, config, objective, run_dir, replay)
        self._learner: Learner | None = None
        self._engines: Any = None  # the store in which engines meet the first rank
        self._links: Links | None = None
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[Path] | None = None  # the checkpoint that is being written
        super().__init__(config, rank, timeout_s)

    def build(self, ranks: Ranks | None) -> None:
        with without_collector():
            import rl.policy.loading  # noqa: F401
            from rl.learner.learner import Learner

        policy, config, objective, run_dir, replay = self._given
        self._learner = Learner(self.policy(policy), config, objective, run_dir, replay=replay, ranks=ranks)

    @property
    def learner(self) -> Learner:
        if self._learner is None:
            raise RuntimeError(f"rank {self._rank} of the learner has not met the others yet")
        return self._learner

    def step(self, groups: Sequence[Group | GroupRefs]) -> dict[str, float]:
        """``Learner.step``."""
        return self.learner.step(opened(groups, self._timeout_s))

    def accumulate(self, groups: Sequence[Group | GroupRefs]) -> None:
        """``Learner.accumulate``."""
        self.learner.accumulate(opened(groups, self._timeout_s))

    def finish(self, rest: Sequence[Group | GroupRefs], ids: Sequence[int]) -> dict[str, float]:
        """``Learner.finish``, once the ``rest`` of the groups ``ids`` is accumulated too."""
        if rest:
            self.accumulate(rest)
        return self.learner.finish(ids)

    def weights(self) -> tuple[Packed, int]:
        """What an engine needs, to stay in the object store (ask for two returns), and its bytes.

        Ray copies the live weights into the store before the next call runs.
        """
        packed = pack(self.learner.compute.weights())
        return packed, packed_bytes(packed)

    def base_weights(self) -> tuple[Packed, int]:
        """``weights``, of what an adapter is added to."""
        packed = pack(self.learner.compute.base_weights())
        return packed, packed_bytes(packed)

    def meet_engines(self) -> Meeting | None:
        """Where engines meet the first rank, to get its weights: address and port; the others listen nowhere."""
        if self._rank > 0:
            return None
        from ray.util import get_node_ip_address

        from rl.policy.meeting import open_meeting

        host = get_node_ip_address()
        if self._engines is None:
            self._engines = open_meeting(host, 2, self._timeout_s)
        return host, self._engines.port

    def send_weights(self, meeting: Rendezvous) -> Receipt | None:
        """The weights to the engines of ``meeting``, one tensor after the other, by the first rank; what was sent.

        Raises StreamBroken where an engine is gone or has refused.
        """
        from ray.util import get_node_ip_address

        from rl.policy.weight_stream import Links

        source = self.learner.compute.source()
        tensors, receipt = iter(source), None
        try:
            if self._rank == 0:
                self._links = self._links or Links()
                with self._links.to(meeting, 0, get_node_ip_address(), self.learner.device) as link:
                    receipt = link.send(source.plan(meeting.version, meeting.bucket_bytes), tensors)
        finally:
            for _ in tensors:  # ranks gather together, whatever has become of the engines
                pass
        return receipt

    def operators(self) -> str:
        """What ``learner.ops`` came to, and where it runs."""
        return self.learner.operators

    def version(self) -> int:
        """Version of the weights that ``weights`` returns."""
        return self.learner.version

    def probe_logprobs(self, tokens: Sequence[int] | np.ndarray, replay: ReplayRecord | None = None) -> np.ndarray:
        """``Learner.probe_logprobs``: float32 [T-1]."""
        return self.learner.probe_logprobs(tokens, replay)

    def probe(self, tokens: Sequence[int], replay: ReplayRecord | None, engine_dtype: str) -> ProbeScores:
        """``Learner.probe``."""
        return self.learner.probe(tokens, replay, engine_dtype)

    def save_policy(self, directory: str) -> None:
        """The policy alone, in the hub's layout (what an engine or transformers loads) and the dtype it computes in."""
        self.learner.compute.save(directory)

    def save_checkpoint(
        self, root: str, step: int, extra: Mapping[str, Any] | None = None, keep: int = 2, beside: bool = False
    ) -> None:
        """``rl.learner.checkpoint.save_checkpoint``; ``beside``: only a copy is taken now, and written while this
        process goes on (``checkpoint_written``). What is still being written is waited for first."""
        from rl.learner.checkpoint import snapshot, write_snapshot

        self.checkpoint_written(wait=True)
        taken = snapshot(self.learner, step, extra, copied=beside)
        if beside:
            self._writing = self._writer.submit(write_snapshot, root, taken, keep)
        else:
            write_snapshot(root, taken, keep)

    def checkpoint_written(self, wait: bool = False) -> bool:
        """Whether nothing is being written any more; with ``wait`` that is waited for. Raises what the writing has
        raised, once."""
        if self._writing is None or not (wait or self._writing.done()):
            return self._writing is None
        writing, self._writing = self._writing, None
        writing.result()
        return True

    def load_checkpoint(self, path: str) -> dict[str, Any]:
        """``rl.learner.checkpoint.load_checkpoint``: the extra dict, with ``step``."""
        from rl.learner.checkpoint import load_checkpoint

        return load_checkpoint(path, self.learner)


def start_learner(
    policy: Mapping[str, Any],
    config: LearnerConfig,
    objective: ObjectiveConfig,
    run_dir: str | Path,
    *,
    replay: ReplayConfig | None = None,
    rank: int = 0,
    timeout_s: float = 600.0,
    **options: Any,
) -> ActorHandle[LearnerProcess]:
    """Start the actor of rank ``rank`` with Ray's ``options``: what is reserved (num_gpus) and where. Torch's threads
    are ``config.threads``."""
    import ray

    actor: Any = ray.remote(**({"num_cpus": 1.0} | options))(LearnerProcess)
    handle: ActorHandle[LearnerProcess] = actor.remote(policy, config, objective, str(run_dir), replay, rank, timeout_s)
    return handle
