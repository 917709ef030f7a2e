"""The length policy and what a run says of it: with `none` nothing depends on how long the thinking is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_doubles import OUTCOME, Rank, Slowly, an_episode

from rewards.compose import RewardComposer, default_composer
from rewards.describe import length_statement, sum_statement
from rewards.language import LanguageConsistency
from rewards.length import Length
from rewards.outcome import Outcome
from rewards.part import RewardError
from rewards.repetition import Repetition
from rewards.schedule import Schedule
from rl.run.assemble import open_composer

CONFIGS = Path(__file__).parents[2] / "configs" / "reward"


def composer_of(name: str) -> RewardComposer:
    return open_composer(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))


@pytest.mark.parametrize(
    ("tokens", "own", "expected"),
    [(0, None, 0.0), (100, None, 0.0), (150, None, -0.5), (200, None, -1.0), (999, None, -1.0), (150, 120, -0.25)],
)
def test_budget_by_hand(tokens: int, own: int | None, expected: float) -> None:
    # B = 100 where the task has none: (150 - 100) / 100; with its own of 120: (150 - 120) / 120
    metadata = {} if own is None else {"token_budget": own}
    scored = Length(policy="budget", max_tokens=100)(an_episode(tokens=tokens, metadata=metadata), OUTCOME)
    assert (scored.value, scored.details) == (pytest.approx(expected), {"token_budget": own or 100})


def test_thinking_can_be_counted_alone() -> None:
    episode = an_episode(tokens=180, thinking=50)
    assert Length(policy="linear", max_tokens=200)(episode, OUTCOME) == pytest.approx(-0.9)
    assert Length(policy="linear", max_tokens=200, count="thinking")(episode, OUTCOME) == pytest.approx(-0.25)
    assert Length(policy="budget", max_tokens=40, count="thinking")(episode, OUTCOME).value == pytest.approx(-0.25)
    with pytest.raises(ValueError, match=r"length\.count='words'"):
        Length(count="words")


@pytest.mark.parametrize("budget", [None, 0, -5, "many", float("nan"), True])
def test_a_task_without_a_usable_budget_is_masked(budget: object) -> None:
    composer = RewardComposer([Outcome(), Length(policy="budget")])
    episode = an_episode(metadata={} if budget is None else {"token_budget": budget})
    with pytest.raises(RewardError, match="give a number of tokens > 0"):
        composer(episode, OUTCOME)
    reward = asyncio.run(composer.score(episode, OUTCOME))
    assert (reward.masked, reward.counts) == ("reward_error", {"length.wrong_type": 1})


@settings(max_examples=40)
@given(
    st.sampled_from(["default", "speciale"]),
    st.integers(0, 10**6), st.integers(0, 10**6), st.text(max_size=200), st.text(max_size=200),
    st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 9),
)  # fmt: skip
def test_with_none_the_reward_does_not_move_with_the_thinking(
    name: str, short: int, long: int, brief: str, lengthy: str, outcome: float, bad: int
) -> None:
    """Same answer, same mistakes, other thinking: of another length in tokens, with another text."""
    composer = composer_of(name)
    counts = {"malformed_call": bad}
    one = an_episode(tokens=short + 5, thinking=short, reasoning=brief, counts=counts)
    two = an_episode(tokens=long + 5, thinking=long, reasoning=lengthy * 3, counts=counts)
    rewards = [composer(e, {"outcome": outcome}) for e in (one, two)]
    assert rewards[0] == rewards[1]
    assert "No term of the reward depends on how many tokens" in composer.describe()


@settings(max_examples=30)
@given(st.integers(1, 10**5), st.integers(1, 10**4))
def test_the_others_do_move(tokens: int, more: int) -> None:
    """The property above would be empty if nothing could break it."""
    for policy in ("linear", "soft_overlong", "budget"):
        part = Length(policy=policy, max_tokens=tokens, buffer_tokens=tokens)
        composer = RewardComposer([Outcome(), part])
        within, beyond = (composer(an_episode(tokens=n), OUTCOME).total for n in (0, tokens + more))
        assert beyond < within
        assert "The reward depends on length: length" in composer.describe()


def test_statements() -> None:
    assert default_composer().describe() == (
        "Reward = 1 × outcome + 1 × format + 0.1 × length\n"
        "No term of the reward depends on how many tokens the thinking or the answer takes. "
        "Token limits of the rollout still cut episodes off; those are scored as they stand."
    )
    linear = Length(policy="linear", max_tokens=400, weight=Schedule(0.0, 0.2, 50), count="thinking")
    assert length_statement([Outcome(), linear]).startswith(
        "The reward depends on length: length (weight 0 → 0.2 over 50 policy versions) falls by 1/400 with each of the "
        "thinking tokens, to −1 at 400."
    )
    assert length_statement([Outcome(), Length(policy="linear", max_tokens=9, weight=0.0)]).startswith("No term")
    assert "Not trained on: length: episodes that a token" in length_statement([Outcome(), Length(policy="mask")])
    assert "By the text alone: repetition is a share" in length_statement([Outcome(), Repetition()])
    assert length_statement([Outcome(), LanguageConsistency()]).startswith("No term")
    unknown = [Outcome(), Slowly(families=("code",)), Rank()]
    assert length_statement(unknown).startswith(
        "Whether the reward depends on length is not known: slowly, rank does not say."
    )
    assert sum_statement(unknown) == "Reward = 1 × outcome + 1 × slowly (of code) + 1 × rank (over the group)"
