"""rl-judge against a server that grades perfectly, and one that answers nonsense half of the time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from rewards.agreement import read_items
from rl.run.paths import resolve

ITEMS = read_items(resolve("pkg://rewards/data/rubric_agreement.jsonl"))


def gold_for(body: dict[str, Any]) -> str:
    question = body["messages"][-1]["content"]
    (item,) = [i for i in ITEMS if f" ---\n{i.answer}\n--- end of answer" in question and i.prompt in question]
    return json.dumps({"reason": "", "scores": item.gold})


@pytest.fixture
def servers() -> Iterator[list[ChatServer]]:
    made = [ChatServer(gold_for), ChatServer(lambda body: "Nice." if "rice" in str(body) else gold_for(body))]
    yield made
    for server in made:
        server.close()


def run(url: str, out: Path) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from configs.schema import register
    from rl.commands.judge_agreement import run

    register()
    overrides = ["judge=endpoint", f"judge.client.base_url={url}", "judge.client.model=m", "draws=20"]
    with initialize_config_module("configs", version_base="1.3"):
        cfg = OmegaConf.to_object(compose("agreement", [*overrides, f"out={out}", "retries=1"]))
    run(cfg)  # type: ignore[arg-type]
    return json.loads(out.read_text())


def test_a_perfect_judge_and_one_that_fails_on_some(servers: list[ChatServer], tmp_path: Path) -> None:
    result = run(servers[0].url, tmp_path / "good.json")
    assert result["judges"]["judge"]["kappa"]["value"] == 1.0
    assert result["judges"]["constant"]["pairs"]["value"] == 0.5
    assert result["prompt_tokens"] == 60 * 70
    result = run(servers[1].url, tmp_path / "bad.json")
    measured = result["judges"]["judge"]
    assert 0 < measured["unusable"]["value"] < 0.5
    assert measured["accuracy"]["value"] == 1.0  # over the usable ones
    failed = [name for name, scores in result["scores"].items() if scores is None]
    assert {"rice-good", "rice-middling", "rice-bad"} <= set(failed)
    assert result["problems"] == {"nonsense": 2 * len(failed)}
