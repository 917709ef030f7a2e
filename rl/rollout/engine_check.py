"""Does a deterministic engine keep its promise on this machine? A rollout worker asks once, when it starts.

One request alone, and the same among others of other lengths: tokens and log-probs have the same bits, or the
engine is refused. Which kernels a processor gets is decided by its libraries, so a promise that holds here may fail
elsewhere; then a run must not begin.
"""

from __future__ import annotations

import numpy as np

from rl.rollout.engine import Engine
from rl.rollout.engine_api import GenerateRequest, Generation

PROMPT, COMPANY, SAMPLED = 90, (7, 33, 61, 128), 12  # tokens


def check_invariance(engine: Engine) -> None:
    """Raise RuntimeError when a request's bits depend on its company. No request may be running."""
    room = engine.max_model_len - SAMPLED
    rng = np.random.default_rng(0)
    lengths = [min(n, room) for n in (PROMPT, *COMPANY)]
    prompts = [rng.integers(0, engine.vocab_size, n).tolist() for n in lengths]
    alone = _first(engine, prompts[:1])
    for order in (prompts, prompts[::-1]):
        engine._core.reset_prefix_cache()
        beside = _first(engine, order, at=order.index(prompts[0]))
        if beside.tokens != alone.tokens or beside.logprobs != alone.logprobs:
            apart = np.abs(np.subtract(beside.logprobs, alone.logprobs)).max()
            raise RuntimeError(
                "deterministic=true, but on this machine a rollout depends on what else is computed (log-probs by up "
                f"to {apart:.1e} nats): its kernels are not batch-invariant; set deterministic=false"
            )
    engine._core.reset_prefix_cache()


def _first(engine: Engine, prompts: list[list[int]], at: int = 0) -> Generation:
    """What request ``at`` of ``prompts`` gets when all are asked at once."""
    for i, prompt in enumerate(prompts):
        engine.add(GenerateRequest(f"check-{i}", prompt, max_tokens=SAMPLED, seed=0))
    done: dict[str, Generation] = {}
    while engine.has_unfinished():
        done.update(engine.step())
    return done[f"check-{at}"]
