"""The README.md of a policy: the run's own figures, the base model, how to load it; no path of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from configs.schema import PolicyConfig, TrainConfig
from rl.run.model_card import write_model_card


def evaluation(mean: float) -> dict[str, Any]:
    tasks = {"search/heldout/0": mean, "search/heldout/1": mean}
    family = {"avg@k": mean, "stderr": 0.01, "k": 4, "n_tasks": 2, "sampled_tokens": 20.0, "tasks": tasks}
    return {"overall": mean, "stderr": 0.01, "k": 4, "n_tasks": 2, "families": {"search": family}}


SUMMARY = {
    "run": "demo-0",
    "steps": 80,
    "reward": "Reward = 1 × outcome",
    "eval_before": evaluation(0.25),
    "eval_after": evaluation(0.75),
}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(env={"_target_": "envs.search.SearchTaskset"}, **changes)


def card(tmp_path: Path, cfg: TrainConfig, summary: dict[str, Any] = SUMMARY) -> ModelCard:
    directory = tmp_path / "demo-0" / "policy"
    directory.mkdir(parents=True)
    return ModelCard.load(write_model_card(directory, cfg, summary, "80 steps of 8 prompts × 8 rollouts"))


def test_what_it_says(tmp_path: Path) -> None:
    found = card(tmp_path, config())
    assert found.data.to_dict()["library_name"] == "transformers"
    assert "license" not in found.data.to_dict()
    text = found.text
    for part in (
        "# demo-0", "that of the base model", "`pkg://rl.bases/tiny_dsa_base`", "`envs.search.SearchTaskset`",
        "80 steps of 8 prompts × 8 rollouts; learning rate 0.0002; 80 steps were made", "Reward = 1 × outcome",
        "0.250 ± 0.010 | 0.750 ± 0.010", 'LLM("policy", dtype="float32", max_model_len=1024)', '"thinking": True',
        "from_pretrained",
        "vLLM needs the package `speciale-rl`",
    ):  # fmt: skip
        assert part in text, part
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("path", "said", "named"),
    [("me/tiny", "`me/tiny`", "me/tiny"), ("/somewhere/of/mine/tiny", "a model in a directory `tiny`", None)],
)
def test_the_base_model(path: str, said: str, named: str | None, tmp_path: Path) -> None:
    cfg = config(policy=PolicyConfig(preset="hf", path=path, renderer="hf"), push_to_hub="me/trained")
    found = card(tmp_path, cfg)
    assert f"- **Base model:** {said}" in found.text
    assert found.data.to_dict().get("base_model") == named
    assert "/somewhere" not in found.content
    assert "# trained" in found.text
    assert 'LLM("me/trained", dtype="float32", max_model_len=1024)' in found.text
    assert "enable_thinking=True" in found.text
    assert "vLLM needs the package" not in found.text


def test_a_run_without_evaluations(tmp_path: Path) -> None:
    assert "The run has none." in card(tmp_path, config(), {"run": "demo-0"}).text


def test_the_name_of_a_repository_is_checked() -> None:
    with pytest.raises(ValueError, match=r"push_to_hub='?mine'?: must be owner/name"):
        config(push_to_hub="mine")
    with pytest.raises(ValueError, match="push_public=true without push_to_hub: nothing is uploaded"):
        config(push_public=True)
