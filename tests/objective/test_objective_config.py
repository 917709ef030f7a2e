"""Settings of the objective: errors name field, value and fix; the KL strength per family, also on the command line."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from configs.schema import TrainConfig, register
from rl.objective.config import ObjectiveConfig, TeachingConfig


def composed(*overrides: str) -> ObjectiveConfig:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        config = OmegaConf.to_object(compose("train", list(overrides)))
    assert isinstance(config, TrainConfig)
    return config.objective


@pytest.mark.parametrize(
    "bad",
    [
        {"clip": 0.0},
        {"clip_high": 0.0},
        {"surrogate": "x"},
        {"ratio": "x"},
        {"loss_aggregation": "x"},
        {"loss_constant": None, "loss_aggregation": "constant"},
        {"loss_constant": 0, "loss_aggregation": "constant"},
        {"advantage_norm": "x"},
        {"old_policy": "x"},
        {"correction": "x"},
        {"correction": "mask"},  # old_policy is sampler
        {"correction_low": 1.0},
        {"correction_high": 1.0},
        {"kl_coef": -1.0},
        {"kl_coef": "much"},
        {"kl_coef": None},
        {"kl_coef": {"math": -1.0}},
        {"kl_coef": {"math": float("nan")}},
        {"ref_refresh_every": -1},
        {"opsm_delta": -0.1},
        {"opsm_delta": "q95"},
        {"opsm_delta": "p0"},
        {"opsm_delta": "p101"},
        {"opsm_delta": True},
        {"opsm_window": 8},
        {"temperature": 0.0},
    ],
)
def test_config_names_the_bad_field(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"objective.{next(iter(bad))}"):
        ObjectiveConfig(**bad)


def test_correction_with_the_samplers_ratio_says_why() -> None:
    with pytest.raises(ValueError, match="already contains"):
        ObjectiveConfig(correction="truncate")


def test_kl_strength_per_family() -> None:
    config = ObjectiveConfig(kl_coef={"default": 0.01, "math": 0.0})
    assert (config.kl_coef_for("math"), config.kl_coef_for("search")) == (0.0, 0.01)
    assert ObjectiveConfig(kl_coef={"math": 0.1}).kl_coef_for("search") == 0.0
    assert ObjectiveConfig(kl_coef=0.1).kl_coef_for("search") == 0.1
    assert [ObjectiveConfig(kl_coef=k).uses_reference for k in (0, {}, {"math": 0.0}, {"math": 0.1}, 0.1)] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_a_misspelt_family_is_named() -> None:
    config = ObjectiveConfig(kl_coef={"default": 0.01, "mtah": 0.0})
    with pytest.raises(ValueError, match=r"objective\.kl_coef\.mtah=0\.0.*code, math"):
        config.check_families({"math", "code"})
    ObjectiveConfig(kl_coef={"default": 0.01, "math": 0.0}).check_families({"math", "code"})


def test_percentile_of_delta() -> None:
    deltas = ("p95", "p99.5", "p100", 0.05, 0, None)
    assert [ObjectiveConfig(opsm_delta=d).opsm_share for d in deltas] == [0.95, 0.995, 1.0, None, None, None]


def test_command_line() -> None:
    assert not composed().uses_reference
    assert composed("objective.kl_coef=0.01").kl_coef_for("math") == 0.01
    both = composed("objective.kl_coef.default=0.01", "objective.kl_coef.math=0")
    assert (both.kl_coef_for("math"), both.kl_coef_for("search")) == (0.0, 0.01)
    # what the issue's example says alone: maths has none, the default is none
    assert not composed("objective.kl_coef.math=0").uses_reference
    assert composed("objective.kl_coef={default: 0.02, math: 0.001}").kl_coef_for("math") == 0.001
    assert composed("objective.opsm_delta=p95").opsm_share == 0.95
    assert composed("objective.opsm_delta=0.05").opsm_delta == 0.05


def test_teachers_and_their_weights_per_family() -> None:
    teaching = TeachingConfig({"math": "a", "default": "b"}, weight={"math": 0.5, "default": 1.0, "code": 0.0})
    assert [teaching.teacher_for(family) for family in ("math", "search", "code")] == ["a", "b", None]
    assert [teaching.weight_for(family) for family in ("math", "search", "code")] == [0.5, 1.0, 0.0]
    assert TeachingConfig().teacher_for("math") is None
    assert (ObjectiveConfig().reward_weight, ObjectiveConfig(distill=teaching).reward_weight) == (1.0, 0.0)
    with pytest.raises(ValueError, match=r"objective\.distill\.weight of math is 0, and it has a teacher"):
        TeachingConfig({"math": "a"}, weight=0.0)
    with pytest.raises(ValueError, match=r"objective\.distill\.weight\.math=-1: must be a number"):
        TeachingConfig(weight={"math": -1})
    found = composed("objective.distill.teachers.math=runs/x", "objective.distill.weight.math=2")
    assert found.distill.teachers == {"math": "runs/x"}
    assert (found.distill.weight_for("math"), found.distill.weight_for("code")) == (2.0, 1.0)
