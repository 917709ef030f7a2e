"""configs/train.schema.json is current, takes what rl-train takes and refuses what it refuses."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from jsonschema import Draft7Validator
from omegaconf import OmegaConf

from configs.json_schema import text, train_schema
from configs.schema import TrainConfig, register

CONFIGS = Path(__file__).parents[2] / "configs"
VALIDATOR = Draft7Validator(train_schema())
OVERLAYS = sorted(p.stem for p in (CONFIGS / "experiment").glob("*.yaml") if p.stem != "needle")  # rl-adapt's


def faults(values: Any) -> list[str]:
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in VALIDATOR.iter_errors(values)]


def test_the_file_is_current() -> None:
    shipped = (CONFIGS / "train.schema.json").read_text(encoding="utf-8")
    assert shipped == text(), "run: python -m configs.json_schema configs/train.schema.json"
    Draft7Validator.check_schema(train_schema())


@pytest.mark.parametrize("name", OVERLAYS)
def test_shipped_overlays_and_what_a_run_stores(name: str) -> None:
    assert faults(OmegaConf.to_container(OmegaConf.load(CONFIGS / "experiment" / f"{name}.yaml"))) == []
    register()
    with initialize_config_module("configs", version_base="1.3"):
        stored = OmegaConf.to_yaml(OmegaConf.structured(OmegaConf.to_object(compose("train", [f"experiment={name}"]))))
    assert faults(OmegaConf.to_container(OmegaConf.create(stored), resolve=False)) == []


def test_the_defaults_are_there() -> None:
    def defaults(node: dict[str, Any]) -> Any:
        inside = {k: v for k, v in node.get("properties", {}).items() if k not in ("defaults", "hydra")}
        return {k: defaults(v) for k, v in inside.items()} if inside else node["default"]

    assert defaults(train_schema()) == asdict(TrainConfig())
    assert faults(asdict(TrainConfig())) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_generations": 4}, "Additional properties are not allowed ('num_generations' was unexpected)"),
        ({"learner": {"learning_rate": 1}}, "learner: Additional properties are not allowed"),
        ({"steps": 0}, "steps: 0 is less than the minimum of 1"),
        ({"steps": "many"}, "steps: 'many' does not match"),
        ({"objective": {"clip": 0}}, "objective.clip: 0 is less than or equal to the minimum of 0"),
        ({"rollout": {"top_p": 1.5}}, "rollout.top_p: 1.5 is greater than the maximum of 1"),
        ({"rollout": {"retention": "some"}}, "rollout.retention: 'some' is not one of ['cycle', 'drop', 'keep']"),
        ({"eval": {"ks": [0]}}, "eval.ks.0: 0 is less than the minimum of 1"),
        ({"name": "a/b"}, "name: 'a/b' does not match"),
        ({"coldstart": False}, "coldstart: False is not of type 'object'"),
    ],
)
def test_what_is_wrong_is_seen(values: dict[str, Any], said: str) -> None:
    (fault,) = faults(values)
    assert said in fault


def test_an_interpolation_stands_for_a_number() -> None:
    assert faults({"objective": {"temperature": "${rollout.temperature}"}, "steps": "${oc.env:STEPS}"}) == []


def test_every_field_is_described() -> None:
    def missing(node: dict[str, Any], path: str) -> list[str]:
        inside = node.get("properties", {})
        return [p for k, v in inside.items() for p in missing(v, f"{path}.{k}")] + (
            [] if "description" in node or not path else [path]
        )

    assert missing(train_schema(), "") == []
