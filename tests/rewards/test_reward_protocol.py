"""The protocol: where parts run, weights and schedules, families, details, masks, groups, cache, pickling."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from dataclasses import dataclass

import pytest
from reward_doubles import OUTCOME, Clock, Detailed, Pid, Rank, Slowly, an_episode

from envs.types import Message
from rewards.compose import Reward, RewardComposer
from rewards.outcome import Outcome
from rewards.part import GroupPart, RewardError, RewardPart
from rewards.schedule import Schedule


@pytest.fixture
def compose():
    made = []

    def make(*parts):
        made.append(RewardComposer(parts))
        return made[-1]

    yield make
    for composer in made:
        composer.close()


def score(composer: RewardComposer, episode=None, scores=OUTCOME, version: int = 0) -> Reward:
    return asyncio.run(composer.score(episode or an_episode(), scores, version))


def test_sync_parts_run_in_a_process_of_their_own_unless_told_otherwise(compose):
    composer = compose(Pid(), Pid(name="here", isolate=False))
    parts = score(composer).parts
    assert parts["here"] == os.getpid() != parts["pid"]
    assert score(composer).parts["pid"] == parts["pid"]  # the process is kept
    composer.close()
    assert score(composer).parts["pid"] != parts["pid"]


def test_async_parts_are_awaited_together(compose):
    composer = compose(*(Slowly(name=f"p{i}", wait_s=0.3) for i in range(8)), Slowly(name="child", isolate=True))
    assert score(composer).total == pytest.approx(9 * 0.25)
    Slowly.most = 0
    began = time.monotonic()
    score(composer)
    assert time.monotonic() - began < 60
    assert Slowly.most == 8  # all of this process at once


def test_schedule_is_linear_in_the_version(compose):
    line = Schedule(start=1.0, end=0.0, steps=10)
    assert [line.at(v) for v in (0, 5, 10, 99)] == [1.0, 0.5, 0.0, 0.0]
    composer = compose(Outcome(weight={"start": 0.0, "end": 2.0, "steps": 4}))  # as it stands in a configuration
    assert [score(composer, version=v).total for v in (0, 1, 4, 400)] == [0.0, 0.5, 2.0, 2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": {"start": 1.0, "steps": 3}}, r"outcome\.weight=.*a schedule is \{start, end, steps\}"),
        ({"weight": {"start": 1.0, "end": 0.0, "steps": 0}}, r"outcome\.weight\.steps=0"),
        ({"weight": "much"}, r"outcome\.weight='much'"),
        ({"bounds": (1.0, 0.0)}, r"outcome\.bounds=\[1\.0, 0\.0\]"),
        ({"bounds": (0.0, float("inf"))}, r"outcome\.bounds"),
        ({"timeout_s": 0}, r"outcome\.timeout_s=0"),
        ({"families": "search"}, r"outcome\.families='search'"),
    ],
)
def test_errors_of_options_name_part_and_field(options, message):
    with pytest.raises(ValueError, match=message):
        RewardComposer([Outcome(**options)])


def test_a_part_may_be_for_some_families_only(compose):
    composer = compose(Outcome(), Slowly(families=("code",), wait_s=0))
    assert "slowly" not in score(composer, an_episode(family="search")).parts
    assert score(composer, an_episode(family="code")).total == 1.25


def test_details_are_kept_and_not_added(compose):
    composer = compose(Detailed(weight=2.0), Outcome())
    reward = score(composer)
    assert reward.parts == {
        "detailed": 1.0, "outcome": 1.0, "detailed/seen": 7.0, "detailed/share": 0.25, "score/outcome": 1.0,
    }  # fmt: skip
    assert reward.total == 2.0
    masked = score(composer, an_episode(counts={"bad": 1}))
    assert (masked.masked, masked.total, masked.counts) == ("not_today", 2.0, {})


def group(composer: RewardComposer, texts: list[str], version: int = 0) -> list[Reward]:
    async def both() -> list[Reward]:
        episodes = [an_episode(text, counts={"bad": 1} if text == "bad" else None) for text in texts]
        rewards = [await composer.score(e, OUTCOME, version) for e in episodes]
        return await composer.score_group(episodes, [OUTCOME] * len(episodes), rewards, version)

    return asyncio.run(both())


def test_group_parts_see_the_whole_group_and_add_their_terms(compose):
    composer = compose(Outcome(), Rank(weight={"start": 0.0, "end": 1.0, "steps": 2}))
    rewards = group(composer, ["5", "555", "5"], version=1)
    assert [r.total for r in rewards] == [1.5, 1.0, 1.5]
    assert rewards[1].parts == {"outcome": 1.0, "rank": 0.0, "rank/size": 3.0, "score/outcome": 1.0}


def test_masked_members_are_not_shown_to_a_group_part(compose):
    rewards = group(compose(Outcome(), Detailed(), Rank()), ["bad", "55555", "7777"])
    assert [r.masked for r in rewards] == ["not_today", None, None]
    assert [r.parts.get("rank") for r in rewards] == [None, 0.0, 1.0]  # "bad" would have been the shortest


def test_cache_keeps_equal_episodes_apart_from_others(compose):
    composer = compose(Clock(cache=True), Clock(name="live"))
    first, again, other = (score(composer, an_episode(text)) for text in ("5", "5", "6"))
    assert first.parts["clock"] == again.parts["clock"] != other.parts["clock"]
    assert first.parts["live"] != again.parts["live"]


def test_a_composer_travels_to_another_process(compose):
    composer = compose(Outcome(), Pid(), Slowly(), Rank())
    score(composer)
    twin = pickle.loads(pickle.dumps(composer))
    assert score(twin).parts.keys() == score(composer).parts.keys()
    assert score(twin).parts["pid"] != score(composer).parts["pid"]
    twin.close()


def test_a_part_that_cannot_travel_is_refused_at_the_start():
    @dataclass(frozen=True, kw_only=True)
    class Local(RewardPart):
        name: str = "local"

        def __call__(self, episode, scores):
            return 0.0

    with pytest.raises(ValueError, match=r"parts\.local: it cannot be sent to its own process .*isolate: false"):
        RewardComposer([Local()])
    assert score(RewardComposer([Local(isolate=False)])).total == 0.0
    with pytest.raises(ValueError, match="str is no RewardPart"):
        RewardComposer(["outcome"])  # type: ignore[list-item]


def test_scripts_get_the_error_itself(compose):
    with pytest.raises(RewardError, match=r"'outcome': score\(\) of family 'search' returned \[\]") as caught:
        compose(Outcome())(an_episode(), {})
    assert (caught.value.part, caught.value.kind) == ("outcome", "raised")


@dataclass(frozen=True, kw_only=True)
class Wrong(GroupPart):
    name: str = "wrong"
    isolate: bool | None = False
    gives: object = None

    def __call__(self, episodes, scores):
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


@pytest.mark.parametrize(
    ("gives", "kind"),
    [([1.0], "wrong_type"), (None, "wrong_type"), ("ab", "wrong_type"), (KeyError("x"), "raised"), ({}, "wrong_type")],
)
def test_a_broken_group_part_masks_the_whole_group(compose, gives, kind):
    rewards = group(compose(Outcome(), Wrong(gives=gives)), ["5", "6"])
    assert [(r.masked, r.total, r.counts) for r in rewards] == [("reward_error", 0.0, {f"wrong.{kind}": 1})] * 2


def test_one_bad_value_of_a_group_masks_one_member(compose):
    rewards = group(compose(Outcome(), Wrong(gives=[0.5, float("nan")])), ["5", "6"])
    assert [(r.masked, r.total) for r in rewards] == [(None, 1.5), ("reward_error", 0.0)]


def test_what_the_policy_said_is_told_from_the_prompt():
    episode = an_episode("mine")
    shown = (Message("user", "a"), Message("assistant", "an example"), *episode.messages)
    assert [m.content for m in type(episode)(episode.task, shown, episode.stop_reason, 1).sampled] == ["mine"]
    assert type(episode)(episode.task, shown, episode.stop_reason, 0).sampled == ()
