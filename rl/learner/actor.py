"""The driver's handle on the learner: what the loop calls, each with a deadline that names what it waits for.

The learner runs in processes of its own (``rl.learner.process``), one or more (``rl.learner.group``).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rl.chat.tokenizer import copy_tokenizer
from rl.learner.group import LearnerGroup
from rl.learner.overlap import Overlap
from rl.learner.process import start_learner
from rl.policy.packed_weights import Packed
from rl.policy.rendezvous import Receipt, Rendezvous
from rl.types import Group, ProbeScores, ReplayRecord

if TYPE_CHECKING:
    import ray

    from configs.schema import TrainConfig
    from rl.rollout.pool import RolloutPool

log = logging.getLogger(__name__)
T = TypeVar("T")
PROBE = 192  # tokens of the sync probe, at least


class LearnerSender:
    """The learner as it sends its weights to engines (``rl.rollout.streams.Sender``)."""

    def __init__(self, group: LearnerGroup, adapts: bool, deadline_s: float) -> None:
        self._group, self._deadline_s, self.adapts = group, deadline_s, adapts
        self.moved = True

    def meet(self) -> tuple[str, int]:
        """See ``Sender``."""
        where: tuple[str, int] = self._group.get(
            "the learner's address", self._group.call("meet_engines"), self._deadline_s
        )
        return where

    def send(self, meeting: Rendezvous) -> Callable[[float], Receipt]:
        """See ``Sender``."""
        sent = self._group.call("send_weights", meeting)

        def ended(seconds: float) -> Receipt:
            receipt: Receipt = self._group.get("the learner's weights", sent, self._deadline_s, left_s=seconds)
            return receipt

        return ended


class LearnerHandle:
    """Owns the learner of a run. Policy and tokenizer start from ``policy_dir``.

    Paths reach its processes whole: these have the working directory in which Ray was started.
    """

    def __init__(self, cfg: TrainConfig, policy_dir: Path, run_dir: Path) -> None:
        policy_dir, run_dir = policy_dir.absolute(), run_dir.absolute()
        self._deadline_s = cfg.step_deadline_s
        self._policy_dir = policy_dir
        self._engine_dtype = cfg.rollout.dtype
        self._adapts = cfg.learner.lora.rank > 0
        self._saves_beside = cfg.checkpoint_async
        self._tell_operators = cfg.learner.ops != "torch"
        self._probe_tokens = probe_tokens(policy_dir, cfg.seed, cfg.rollout.max_context - 1)
        self._overlap: Overlap | None = None
        process = partial(
            start_learner,
            {"path": str(policy_dir)},
            cfg.learner,
            cfg.objective,
            run_dir,
            replay=cfg.replay,
            timeout_s=cfg.step_deadline_s,
        )
        self._start = partial(LearnerGroup, process, cfg.learner.ranks, cfg.ray.learner_gpus)
        self._streams = cfg.rollout.weights != "store"
        self._group = self._start()
        self._sender = self._new_sender()

    @property
    def started_from(self) -> str:
        """Name of the policy's directory: a cached stage has its key in it."""
        return self._policy_dir.name

    def restart(self) -> None:
        """New processes with the weights that the first ones started from: ``load`` a checkpoint."""
        self._group.kill()
        self._group, self._overlap = self._start(), None
        self._sender = self._new_sender()

    def _new_sender(self) -> LearnerSender:
        return LearnerSender(self._group, self._adapts, self._deadline_s)

    def overlap(self) -> Overlap:
        """For ``pool.take``: the groups of the next ``step`` are worked on as they arrive."""
        self._overlap = Overlap(self._accumulate, partial(self._get, "the learner's work on a batch"))
        return self._overlap

    def step(self, groups: Sequence[Group], pool: RolloutPool) -> dict[str, float]:
        """``Learner.step`` in the actor, less what was done in ``overlap``; ``pool`` takes in the groups that finish
        meanwhile."""
        overlap, self._overlap = self._overlap, None
        self._sender.moved = True
        step: ray.ObjectRef[dict[str, float]]
        running = None if overlap is None else overlap.running
        if overlap is None:
            step = self._group.call("step", self._handed(groups))
        else:
            step = self._group.call("finish", self._handed(overlap.waiting), [group.id for group in groups])
        pool.receive_until(step, self._deadline_s)
        if running is not None:  # nobody has looked yet at how the last part has ended
            self._get("the learner's work on a batch", running, left_s=5.0)
        return self._get("the learner's step", step, left_s=5.0)  # it is there, or it was waited for long enough

    def sync(self, pool: RolloutPool, version: int) -> dict[str, float]:
        """Publish the weights to every engine as ``version``; returns what the probe has found, by metric.

        Raises WeightSyncError when an engine does not compute what the learner computes.
        """
        if self._tell_operators:  # its process is up now; what it logs itself stays there
            log.warning("%s", self._get("the learner's operators", self._group.call("operators")))
            self._tell_operators = False
        if self._adapts and pool.base != str(self._policy_dir):
            pool.take_base(str(self._policy_dir), partial(self._stored, "base_weights"))
        weights = self._sender if self._streams else partial(self._stored, "weights")
        report = pool.sync(weights, version, self._probe_tokens, self.probe)
        self._sender.moved = False
        return report.metrics

    def _accumulate(self, groups: list[Group]) -> ray.ObjectRef[None]:
        running: ray.ObjectRef[None] = self._group.call("accumulate", self._handed(groups))
        return running

    def _handed(self, groups: Sequence[Group]) -> Any:
        """What the ranks are given: where the groups are, where these are not here as a whole."""
        return self._group.put([group.refs or group for group in groups])

    def _stored(self, method: str) -> ray.ObjectRef[Packed]:
        """Weights that the learner puts into the object store, where workers read them: not through this process."""
        weights: ray.ObjectRef[Packed]
        weights, size = self._group.call_stored(method)
        self._get("the learner's weights", size)
        return weights

    def probe(self, tokens: list[int], replay: ReplayRecord | None) -> ProbeScores:
        """The learner's log-probs of ``tokens[1:]``, and how far the engine's may be from them."""
        asked = self._group.call("probe", tokens, replay, self._engine_dtype)
        scores: ProbeScores = self._get("the learner's probe", asked)
        return scores

    def save(self, root: Path, step: int, extra: dict[str, Any], keep: int) -> None:
        """Begin a full-state checkpoint, ``extra`` included: it is there when ``saved``, at once with
        ``checkpoint_async=false``. Raises what went wrong with the one before, if nobody has asked for that yet."""
        begun = self._group.call("save_checkpoint", str(root.absolute()), step, extra, keep, self._saves_beside)
        self._get("the checkpoint", begun)

    def saved(self, wait: bool = False) -> bool:
        """Whether what ``save`` has begun is on disk; ``wait`` until it is. Raises what writing it has raised."""
        written: bool = self._get("the checkpoint", self._group.call("checkpoint_written", wait))
        return written

    def load(self, path: Path) -> dict[str, Any]:
        """Restore a checkpoint; returns its ``extra``."""
        self._sender.moved = True
        return self._get("the checkpoint to load", self._group.call("load_checkpoint", str(path.absolute())))

    def save_policy(self, directory: Path) -> None:
        """The policy with its tokenizer, as transformers and vLLM load it."""
        self._get("the policy to be saved", self._group.call("save_policy", str(directory.absolute())))
        copy_tokenizer(self._policy_dir, directory)

    def close(self) -> None:
        """End its processes."""
        self._group.kill()

    def _get(self, what: str, ref: ray.ObjectRef[T], left_s: float | None = None) -> T:
        result: T = self._group.get(what, ref, self._deadline_s, left_s)
        return result


def probe_tokens(policy_dir: Path, seed: int, longest: int) -> list[int]:
    """Random token ids, ``PROBE`` or so many more than the DSA indexer keeps that the sparse path is compared; at most
    ``longest``, what the engine's window has room for (then no rollout is long enough for it either)."""
    config = json.loads((policy_dir / "config.json").read_text())
    length = min(longest, max(PROBE, config.get("index_topk", 0) + PROBE // 2))
    tokens: list[int] = np.random.default_rng(seed).integers(0, config["vocab_size"], length).tolist()
    return tokens
