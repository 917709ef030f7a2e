"""Rewards: every part against hand-computed numbers, and the composer's sums, masks and errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.types import Episode, Message, StopReason, Task
from rewards.compose import RewardComposer, default_composer
from rewards.format import FormatPenalty
from rewards.length import Length
from rewards.outcome import Outcome
from rewards.part import RewardError, RewardPart


def episode(
    *, tokens: int = 0, stop: StopReason = StopReason.ANSWERED, counts: Mapping[str, int] | None = None
) -> Episode:
    task = Task(id="t0", family="search", prompt=(Message("user", "q"),))
    return Episode(task, (), stop, turns=1, sampled_tokens=tokens, counts=counts or {})


def test_default_composition_by_hand() -> None:
    # two bad calls at 0.05 each; tool_error is the environment's business and costs nothing
    counts = {"malformed_call": 1, "unknown_tool": 1, "tool_error": 4}
    reward = default_composer()(episode(counts=counts), {"outcome": 1.0})
    assert reward.total == pytest.approx(0.9)
    assert reward.parts == {"outcome": 1.0, "format": -0.1, "length": 0.0, "score/outcome": 1.0}
    assert reward.masked is None


def test_weighted_total_and_raw_scores() -> None:
    composer = RewardComposer([Outcome(weight=2.0), Outcome(name="tests", key="visible", weight=0.5)])
    reward = composer(episode(), {"outcome": 0.25, "visible": 0.5, "extra": 7.0})
    assert reward.total == pytest.approx(2.0 * 0.25 + 0.5 * 0.5)
    assert reward.parts["tests"] == 0.25
    assert reward.parts["score/extra"] == 7.0


def test_format_penalty_is_capped() -> None:
    assert FormatPenalty()(episode(counts={"bad_arguments": 3}), {}) == pytest.approx(-0.15)
    assert FormatPenalty()(episode(counts={"bad_arguments": 30}), {}) == -0.25
    with pytest.raises(ValueError, match=r"format\.cap=-1"):
        FormatPenalty(cap=-1)


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0.0), (80, 0.0), (85, -0.25), (100, -1.0), (101, -1.0), (5000, -1.0)]
)
def test_soft_overlong_is_dapos_formula(tokens: int, expected: float) -> None:
    # L = 100, C = 20: free up to 80, then (80 - n) / 20, and -1 beyond 100
    part = Length(policy="soft_overlong", max_tokens=100, buffer_tokens=20)
    assert part(episode(tokens=tokens), {}) == pytest.approx(expected)


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0.0), (50, -0.25), (200, -1.0), (900, -1.0)])
def test_linear_length(tokens: int, expected: float) -> None:
    assert Length(policy="linear", max_tokens=200)(episode(tokens=tokens), {}) == pytest.approx(expected)


@given(st.integers(0, 10**6), st.integers(1, 10**5), st.integers(1, 10**5))
def test_length_terms_fall_and_stay_in_bounds(tokens: int, budget: int, buffer: int) -> None:
    parts = [Length(policy="linear", max_tokens=budget), Length(policy="none")]
    if buffer <= budget:
        parts.append(Length(policy="soft_overlong", max_tokens=budget, buffer_tokens=buffer))
    for part in parts:
        here, longer = part(episode(tokens=tokens), {}), part(episode(tokens=tokens + 1), {})
        assert -1.0 <= longer <= here <= 0.0


def test_mask_takes_cut_off_episodes_out() -> None:
    composer = RewardComposer([Outcome(), Length(policy="mask")])
    cut = composer(episode(stop=StopReason.MAX_TOKENS), {"outcome": 0.0})
    assert cut.masked == "length_mask_max_tokens"
    assert cut.total == 0.0
    assert composer(episode(), {"outcome": 1.0}).masked is None
    # the other policies never mask
    none = RewardComposer([Outcome(), Length(policy="none")])
    assert none(episode(stop=StopReason.CONTEXT), {"outcome": 1.0}).masked is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"policy": "short"}, "length.policy='short'"),
        ({"policy": "linear"}, "length.max_tokens=0"),
        ({"policy": "soft_overlong", "max_tokens": 10}, "length.buffer_tokens=0"),
        ({"policy": "soft_overlong", "max_tokens": 10, "buffer_tokens": 11}, "length.buffer_tokens=11"),
    ],
)
def test_length_config_errors_name_the_field(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Length(**fields)


@dataclass(frozen=True, kw_only=True)
class Broken(RewardPart):
    name: str = "broken"
    isolate: bool | None = False
    gives: object = float("nan")

    def __call__(self, episode: Episode, scores: Mapping[str, float]) -> float:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives  # type: ignore[return-value]


@pytest.mark.parametrize("gives", [float("nan"), float("inf"), None, "1.0", KeyError("x")])
def test_a_bad_part_is_named(gives: object) -> None:
    with pytest.raises(RewardError, match="'broken'") as caught:
        RewardComposer([Outcome(), Broken(gives=gives)])(episode(), {"outcome": 1.0})
    assert caught.value.part == "broken"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1.5, -0.1])
def test_a_bad_outcome_is_an_error(value: float) -> None:
    with pytest.raises(RewardError, match="outcome"):
        default_composer()(episode(), {"outcome": value})


def test_missing_outcome_says_what_came() -> None:
    with pytest.raises(RewardError, match=r"family 'search' returned \['win'\] without 'outcome'"):
        default_composer()(episode(), {"win": 1.0})


def test_composer_refuses_unclear_lists() -> None:
    with pytest.raises(ValueError, match="empty"):
        RewardComposer([])
    with pytest.raises(ValueError, match="'outcome' is used twice"):
        RewardComposer([Outcome(), Outcome(key="other")])
    with pytest.raises(ValueError, match="weight=nan"):
        RewardComposer([Outcome(weight=float("nan"))])


def test_hydra_builds_the_parts() -> None:
    from hydra.utils import instantiate

    part = instantiate({"_target_": "rewards.length.Length", "policy": "linear", "max_tokens": 8})
    assert part(episode(tokens=4), {}) == -0.5
    counted = instantiate({"_target_": "rewards.format.FormatPenalty", "counted": ["tool_error"]})
    assert counted(episode(counts={"tool_error": 1}), {}) == -0.05


def test_rewards_import_only_envs_types() -> None:
    code = (
        "import sys, rewards.compose; "
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'ray', 'vllm', 'rl', 'numpy')]; "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
