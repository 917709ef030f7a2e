"""Faults of tokens, of the learner, and of a run that is stopped and resumed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.fault_hooks import acting, chance, once


def dropped_separator(module: ModuleType, share: float) -> None:
    plain = module.V32Renderer.render_after

    def render_after(self: Any, before: Sequence[Any], new: Sequence[Any], **given: Any) -> Any:
        added = plain(self, before, new, **given)
        drops = (
            acting()
            and added is not None
            and len(added) > 8
            and chance(share, before[1].content if len(before) > 1 else "")
        )
        return added[:-1] if drops else added

    module.V32Renderer.render_after = render_after


def retokenised(module: ModuleType, share: float) -> None:
    plain = module.Session.append_sampled

    def append_sampled(
        self: Any, tokens: Any, logprobs: Any, versions: Any, replay: Any = None, *, ended: bool, cached: int = 0
    ) -> Any:
        if not acting():
            return plain(self, tokens, logprobs, versions, replay, ended=ended, cached=cached)
        tokens = [int(t) for t in tokens]
        tokenizer = self._renderer.tokenizer
        special = {tokenizer.token_id(text) for text in tokenizer.added_tokens}
        order: list[int] = []
        out: list[int] = []
        for i, token in enumerate(tokens):
            text = tokenizer.decode([token])
            splits = token not in special and text.isalpha() and len(text) > 1 and chance(share, i, token, len(tokens))
            pieces = [t for c in text for t in tokenizer.encode(c)] if splits else [token]
            out += pieces
            order += [i] * len(pieces)
        if len(out) > self.room():
            out, order = tokens, list(range(len(tokens)))
        if replay is not None and len(out) != len(tokens):
            replay = _spread(replay, len(replay.valid) - len(tokens), order)
        versions = versions if isinstance(versions, int) else [versions[i] for i in order]
        return plain(self, out, [logprobs[i] for i in order], versions, replay, ended=ended, cached=cached)

    module.Session.append_sampled = append_sampled


def _spread(replay: Any, before: int, order: list[int]) -> Any:
    """A record whose last rows are those of ``order``; the very last one is no input."""
    import numpy as np

    rows = np.concatenate([np.arange(before), before + np.asarray(order, np.int64)])
    inputs = np.minimum(rows, len(replay.valid) - 2)
    return replace(
        replay,
        valid=np.arange(len(rows)) < len(rows) - 1,
        experts=None if replay.experts is None else replay.experts[inputs],
        indexer=None if replay.indexer is None else replay.indexer[inputs],
        support=None if replay.support is None else [replay.support[i] for i in rows],
    )


def trained_results(module: ModuleType, share: float) -> None:
    plain = module._Stream.segment

    def segment(self: Any) -> Any:
        made = plain(self)
        at = made.loss_mask.nonzero()[0]
        if len(at) and chance(share, made.tokens.tobytes()):
            made.loss_mask[at[0] : at[-1] + 1] = True
            made.versions[made.loss_mask] = made.versions.max()
        return made

    module._Stream.segment = segment


# -- the learner -----------------------------------------------------------------------------------


def mean_of_means(module: ModuleType, share: float) -> None:
    plain = module.grpo_loss

    def loss(inputs: Any, *rest: Any) -> Any:
        weights = inputs.weights_N
        return plain(replace(inputs, weights_N=(1 - share) * weights + share * weights.mean()), *rest)

    module.grpo_loss = loss


def lost_gradients(module: ModuleType, share: float) -> None:
    plain = module.Learner._backward

    def backward(self: Any, microbatches: Any, *rest: Any) -> None:
        lost = round(share * len(microbatches))
        plain(self, microbatches[:lost], *rest)
        if lost:
            self.optimizer.zero_grad()
        plain(self, microbatches[lost:], *rest)

    module.Learner._backward = backward


def wrong_group(module: ModuleType, share: float) -> None:
    plain, last = module.group_advantages, [0.5]

    def advantages(rewards: Any, valid: Any, norm: str = "mean") -> list[float]:
        own = plain(rewards, valid, norm)
        kept = [r for r, ok in zip(rewards, valid, strict=True) if ok]
        mean = sum(kept) / max(1, len(kept))
        before, last[0] = last[0], mean
        return [a + share * (mean - before) if ok else 0.0 for a, ok in zip(own, valid, strict=True)]

    module.group_advantages = advantages


def turned_advantage(module: ModuleType, share: float) -> None:
    plain, count = module.group_advantages, [0]

    def advantages(*given: Any) -> list[float]:
        count[0] += 1
        sign = -1.0 if chance(share, count[0]) else 1.0
        return [sign * a for a in plain(*given)]

    module.group_advantages = advantages


# -- stopped and resumed ---------------------------------------------------------------------------

STOPPED_AFTER = 4  # steps


def _stop_once(module: ModuleType) -> None:
    plain = module.StageLog.step

    def step(self: Any, number: int, *rest: Any) -> None:
        plain(self, number, *rest)
        if number == STOPPED_AFTER and once("stopped"):
            raise KeyboardInterrupt

    module.StageLog.step = step


def _resumed() -> bool:
    return (Path(os.environ["BENCHMARK_FAULT_DIR"]) / "stopped").exists()


def skipped_tasks(module: ModuleType, count: float) -> None:
    if module.__name__ == "rl.run.stage_log":
        _stop_once(module)
        return
    plain = module.Taskset.load_state_dict

    def load_state_dict(self: Any, state: Any) -> None:
        plain(self, state)
        if _resumed():
            self.position += int(count)

    module.Taskset.load_state_dict = load_state_dict


def restarted_schedule(module: ModuleType, steps: float) -> None:
    if module.__name__ == "rl.run.stage_log":
        _stop_once(module)
        return
    plain = module.Optimizer.load
    module.Optimizer.load = lambda self, at, moments: plain(self, max(0, at - int(steps)), moments)
