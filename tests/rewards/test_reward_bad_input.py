"""Bad reward parts: hanging, raising, NaN, out of bounds, huge, of no type, dying. Nothing stops, nothing scores wrong.

Every case is scored beside an honest episode of the same part. The bad one is masked with its reason and counted, the
honest one gets its number, and so does an honest one afterwards.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from mischief import ASYNC, IN_A_PROCESS, SYNC, AsyncMischief, BadByTask, BadKey, GroupMischief, Mischief
from reward_doubles import OUTCOME, Pid, an_episode

from rewards.compose import Reward, RewardComposer
from rewards.outcome import Outcome
from rewards.part import PartOptions
from rewards.results import PROBLEMS

LATE_S = 2.5  # timeout_s of the parts; an honest call takes milliseconds


def scored(part: PartOptions, episodes: list[Any]) -> tuple[list[Reward], Reward, float]:
    """Rewards of ``episodes`` scored at once, of an honest one after them, and the seconds the first took."""
    composer = RewardComposer([Outcome(), part])  # type: ignore[list-item]

    async def all_of_them() -> tuple[list[Reward], Reward, float]:
        await composer.score(an_episode("fine"), OUTCOME)  # the process has started
        began = time.monotonic()
        together = list(await asyncio.gather(*(composer.score(e, OUTCOME) for e in episodes)))
        seconds = time.monotonic() - began
        return together, await composer.score(an_episode("fine"), OUTCOME), seconds

    try:
        return asyncio.run(all_of_them())
    finally:
        composer.close()


def check(part: PartOptions, problem: str | None) -> None:
    (bad, fine), after, seconds = scored(part, [an_episode("bad"), an_episode("fine")])
    assert (fine.masked, fine.total, fine.counts) == (None, 1.5, {})
    assert (after.masked, after.total) == (None, 1.5)
    assert seconds < LATE_S + 15
    if problem is None:
        assert (bad.masked, bad.total) == (None, 1.5)
        return
    assert problem in PROBLEMS
    assert bad.masked == ("reward_timeout" if problem == "timeout" else "reward_error")
    assert (bad.total, bad.counts) == (0.0, {f"bad.{problem}": 1})
    assert bad.parts == {"outcome": 1.0, "score/outcome": 1.0}  # what could be computed is kept, and no more
    assert "reward part 'bad': " in bad.detail
    assert len(bad.detail) < 20_000


@pytest.mark.parametrize("does", [*SYNC, *IN_A_PROCESS])
def test_in_a_process(does: str) -> None:
    check(Mischief(does=does, timeout_s=LATE_S), (SYNC | IN_A_PROCESS)[does][1])


@pytest.mark.parametrize("does", SYNC)
def test_on_a_thread(does: str) -> None:
    check(Mischief(does=does, timeout_s=LATE_S, isolate=False), SYNC[does][1])


@pytest.mark.parametrize("does", ASYNC)
@pytest.mark.parametrize("isolate", [None, True])
def test_async(does: str, isolate: bool | None) -> None:
    part = AsyncMischief(does=does, timeout_s=LATE_S, isolate=isolate)
    if isolate is None and does.startswith("blocks"):
        # Beside it on the same loop nobody gets a turn; after it the part has a new loop.
        (bad,), after, _ = scored(part, [an_episode("bad")])
        assert (bad.masked, bad.counts, after.total) == ("reward_timeout", {"bad.timeout": 1}, 1.5)
    else:
        check(part, ASYNC[does][1])


@pytest.mark.parametrize("does", ["loops", "raises", "nan", "none", "is_killed"])
def test_a_bad_group_part_masks_its_group_only(does: str) -> None:
    composer = RewardComposer([Outcome(), GroupMischief(does=does, timeout_s=LATE_S)])

    async def group(*texts: str) -> list[Reward]:
        episodes = [an_episode(text) for text in texts]
        rewards = [await composer.score(e, OUTCOME) for e in episodes]
        return await composer.score_group(episodes, [OUTCOME] * len(episodes), rewards)

    async def both() -> list[list[Reward]]:
        return list(await asyncio.gather(group("fine", "bad"), group("fine", "fine")))

    bad, fine = asyncio.run(both())
    composer.close()
    kind = "reward_timeout" if does == "loops" else "reward_error"
    assert [(r.masked, r.total) for r in bad] == [(kind, 0.0)] * 2
    assert [(r.masked, r.total) for r in fine] == [(None, 1.5)] * 2


@pytest.mark.parametrize(("does", "problem"), [("raises", "raised"), ("loops", "timeout"), ("exits", "raised")])
def test_a_bad_cache_key(does: str, problem: str) -> None:
    check(BadKey(does=does, timeout_s=LATE_S), problem)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "1", 1.5, -0.1, [1.0], 10**400])
def test_bad_scores_of_an_environment(value: Any) -> None:
    reward = asyncio.run(RewardComposer([Outcome()]).score(an_episode(), {"outcome": value, "other": 0.5}))
    assert (reward.masked, reward.total, reward.parts) == ("reward_error", 0.0, {"score/other": 0.5})
    assert [key.split(".")[:2] for key in reward.counts] == [["score", "outcome"]]


def test_an_episode_that_cannot_travel() -> None:
    (bad, fine), after, _ = scored(Mischief(), [an_episode(metadata={"f": lambda: 0}), an_episode("fine")])
    assert (bad.masked, bad.counts) == ("reward_error", {"bad.unpicklable": 1})
    assert (fine.total, after.total) == (1.5, 1.5)


def test_many_that_hang_hold_up_nobody_for_good() -> None:
    """More hanging calls than there are processes: they come one after the other, each with its own deadline."""
    rewards, after, seconds = scored(Mischief(does="loops", timeout_s=0.5), [an_episode(str(i)) for i in range(10)])
    assert [r.masked for r in rewards] == ["reward_timeout"] * 10
    assert after.total == 1.5
    assert seconds < 10 * 0.5 + 150  # ten processes have started


def test_a_late_part_takes_what_it_started_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"left by a reward part of {os.getpid()}"  # another process may run this very test
    monkeypatch.setenv("LEFT_BY", mark)
    check(Mischief(does="leaves_a_process_behind", timeout_s=LATE_S), "timeout")
    left = [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]
    assert left == []


def test_an_idle_process_that_somebody_kills_is_replaced() -> None:
    composer = RewardComposer([Pid()])
    first = asyncio.run(composer.score(an_episode(), {})).parts["pid"]
    os.kill(int(first), signal.SIGKILL)
    again = asyncio.run(composer.score(an_episode(), {}))
    composer.close()
    assert (again.masked, again.parts["pid"] == first) == (None, False)


def test_a_real_worker_goes_on(tmp_path: Path, local_ray: None) -> None:
    """Every mischief once through a rollout worker with its engine: all groups come back, masked with their reason."""
    from rollout_doubles import AddTaskset, renderer, tokenizer

    from rl.policy.loading import build_policy
    from rl.rollout.config import RolloutConfig
    from rl.rollout.orders import GroupSpec
    from rl.rollout.pool import RolloutPool

    overrides = {"num_hidden_layers": 2}
    policy = build_policy({"preset": "tiny_dsa", "vocab_size": tokenizer().vocab_size, "overrides": overrides})
    policy.save(tmp_path)
    tokenizer().save(tmp_path)
    open_renderer: Callable[[], Any] = partial(renderer)
    config = RolloutConfig(max_concurrency=8, max_tokens=8, max_context=256, kv_cache_gib=0.05, max_turns=1)
    composer = RewardComposer([Outcome(), BadByTask(timeout_s=LATE_S), GroupMischief(name="group", families=("none",))])
    expected = [problem for _, problem in (SYNC | IN_A_PROCESS).values()] + [None] * 3
    with closing(RolloutPool(config, tmp_path, open_renderer, {"train": AddTaskset()}, composer)) as pool:
        for i in range(len(expected)):
            pool.submit(GroupSpec(i, AddTaskset().task(i), i, 1, 0))
        groups = {g.id: g for g in pool.collect(len(expected), 240)}
        stats = pool.stats()
    assert not any(key for key, n in pool.counts.items() if n), pool.counts  # no worker was restarted
    assert stats["episodes_done"] == len(expected)
    for i, problem in enumerate(expected):
        for t in groups[i].trajectories:
            if problem is None:
                assert t.failure_kind is None, t.failure_detail
                assert t.reward == t.reward_parts["outcome"] + t.reward_parts["bad"]
                assert t.reward_parts["bad"] == 0.5
            else:
                assert t.failure_kind == ("reward_timeout" if problem == "timeout" else "reward_error")
                assert (t.reward, t.counts[f"bad.{problem}"], "bad" in t.reward_parts) == (0.0, 1, False)
                assert "reward part 'bad'" in t.failure_detail
