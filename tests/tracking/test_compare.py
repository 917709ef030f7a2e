"""configuration error: the table by hand, the worked example of docs/cost.md, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from configs.schema import CompareConfig, register
from rl.evaluation.intervals import wilson_interval
from rl.tracking.comparison import accuracy_of, compare, markdown
from rl.tracking.cost import Price, money, price_of
from rl.tracking.recorded import Answer
from rl.tracking.rundir import RunDir
from rl.types import Usage

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "article_answers.jsonl"
PAGE = ROOT / "docs" / "cost.md"


def config(*overrides: str) -> CompareConfig:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        typed: Any = OmegaConf.to_object(compose("compare", list(overrides)))
    return typed


def recorded(path: Path, model: str, *rows: tuple[str, int, int, float | None]) -> str:
    lines = [
        json.dumps({"model": model, "task_id": t, "prompt_tokens": p, "output_tokens": o, "correct": c})
        for t, p, o, c in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


TWO = "cost.prices={a: {input: 1, output: 10}, b: {input: 2, output: 20}}"


def test_the_table_by_hand(tmp_path: Path) -> None:
    a = recorded(tmp_path / "a.jsonl", "a", ("1", 100, 10, 1), ("2", 100, 30, 0), ("3", 100, 20, None))
    b = recorded(tmp_path / "b.jsonl", "b", ("1", 50, 10, 0), ("2", 50, 10, 0))
    result = compare(config(f"sources=[{a},{b}]", TWO))
    one, two = result["models"]
    assert (one["answers"], one["tasks"], one["judged"], one["solved"]) == (3, 3, 2, 1)
    assert one["accuracy"] == 0.5
    assert one["ci95"] == pytest.approx(wilson_interval(0.5, 1, 0.95))  # tasks 1 and 0: stderr 0.5, 0.25 / 0.5² = 1
    # 300 · 1 + 60 · 10 = 900 per million; one of three was right, and pays for all
    assert one["cost"] == one["cost_per_solved"] == pytest.approx(900e-6)
    assert one["cost_per_answer"] == pytest.approx(300e-6)
    assert (one["tokens_mean"], one["output_mean"], one["tokens_per_solved"]) == (120, 20, 360)
    assert one["tokens_p90"] == pytest.approx(128)  # of 110, 120, 130: 0.9 · 2 = 1.8 steps up
    assert one["thinking_mean"] is None  # nobody counted it apart
    assert (two["solved"], two["cost_per_solved"], two["tokens_per_solved"]) == (0, None, None)
    assert result["tasks"] == {"common": 2, "all": 3}
    text = markdown(result)
    assert "| a | 3 | 0.500 (0.05–0.95) | 120 | 128 | 100 | 20 | $0.0003 | $0.0009 (1) |" in text
    assert "| b | 2 | 0.000 (0.00–0.66) | 60 | 60 | 50 | 10 | $0.0003 | – (0) |" in text
    assert "- b: 0.5 × the tokens and 1 × the cost per answer of a." in text
    assert "2 of 3 tasks were answered by all" in text
    common = compare(config(f"sources=[{a},{b}]", TWO, "common_tasks=true"))
    assert [row["answers"] for row in common["models"]] == [2, 2]
    assert common["tasks"] == {"common": 2, "all": 2}


def test_accuracy_over_tasks() -> None:
    def answers(*scores: tuple[str, float | None]) -> list[Answer]:
        return [Answer(task, Usage(), score) for task, score in scores]

    assert accuracy_of(answers(("t", None))) == (None, None)
    # task means 1 and 0.5, s / √2 = 0.25: 0.75 · 0.25 / 0.0625 = 3 independent answers
    mean, interval = accuracy_of(answers(("t", 1.0), ("t", 1.0), ("u", 1.0), ("u", 0.0)))
    assert (mean, interval) == (0.75, pytest.approx(wilson_interval(0.75, 3, 0.95)))
    # one answer, right: 1 / (1 + z²) = 1 / 4.8415
    assert accuracy_of(answers(("t", 1.0))) == (1.0, pytest.approx((0.20654, 1.0), abs=1e-4))


def test_runs_beside_recorded_answers(tmp_path: Path, make) -> None:
    run = RunDir(tmp_path / "demo")
    good = make("a", outcome=1.0)
    good.usage = Usage(1, 100, 50, 10, 0, 5)
    run.log_trajectories("eval_after", [good])
    other = recorded(tmp_path / "o.jsonl", "gemini-3-pro", ("search/0", 100, 15, 1))
    ours, theirs = compare(config(f"sources=[{run.path},{other}]"))["models"]
    assert (ours["model"], ours["price"]) == ("demo", "deepseek-v3.2")
    assert ours["cost"] == pytest.approx((50 * 0.28 + 50 * 0.028 + 15 * 0.42) / 1e6)
    assert (ours["cached_share"], ours["thinking_mean"]) == (0.5, 10)
    assert theirs["price"] == "gemini-3-pro"
    hosted = compare(config(f"sources=[{run.path}]", "price_as={demo: self_hosted}"))
    assert hosted["models"][0]["price"] == "self_hosted"
    assert "Priced: demo as self_hosted." in markdown(hosted)


def test_what_is_refused(tmp_path: Path) -> None:
    a = recorded(tmp_path / "a.jsonl", "unheard-of", ("1", 1, 1, 1))
    b = recorded(tmp_path / "b.jsonl", "gemini-3-pro", ("2", 1, 1, 1))
    for overrides, said in (
        ([], "sources is empty"),
        ([f"sources=[{a}]"], "model='unheard-of': no price of that name (known: deepseek-v3.2, gemini-3-pro"),
        ([f"sources=[{b},{b}]"], "two of them have answers of 'gemini-3-pro'"),
        ([f"sources=[{b}]", "price_as={x: gemini-3-pro}"], "price_as.x: nothing of that name"),
        ([f"sources=[{a}]", "price_as={unheard-of: x}"], "price_as.unheard-of='x': no price of that name"),
        ([f"sources=[{a},{b}]", "price_as={unheard-of: gemini-3-pro}", "common_tasks=true"], "no task was answered by"),
    ):
        with pytest.raises(ValueError) as raised:
            compare(config(*overrides))
        assert said in str(raised.value)


@pytest.mark.run
def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rl.commands.compare", f"sources=[{EXAMPLE}]", "out=found"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "found" / "compare.md").read_text() in done.stdout
    assert len(json.loads((tmp_path / "found" / "compare.json").read_text())["models"]) == 2
    wrong = subprocess.run([*command[:3], "sources=[typo]"], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert wrong.returncode == 2
    assert "configuration error: sources: 'typo' is no .jsonl file" in wrong.stderr


# -- the worked example: 8,077 tokens for $0.0032 beside 4,972 tokens for $0.06 ------------------------------------


def test_the_article_recomputed() -> None:
    result = compare(config(f"sources=[{EXAMPLE}]"))
    v32, gemini = result["models"]
    assert (v32["tokens_mean"], money(v32["cost"])) == (8077, "$0.0032")
    assert (gemini["tokens_mean"], money(gemini["cost"])) == (4972, "$0.06")
    assert v32["cost"] == pytest.approx((1374 * 0.28 + 6703 * 0.42) / 1e6) == pytest.approx(0.0032, abs=5e-8)
    assert gemini["cost"] == pytest.approx(4972 * 12 / 1e6) == pytest.approx(0.059664)
    assert markdown(result) in PAGE.read_text(), "docs/cost.md: put the output of the example's command there again"


def prompts(price: Price, tokens: int, low: float, high: float, *, total: bool) -> Iterator[int]:
    """Prompt lengths for which ``tokens`` (with the prompt in them, or on top of it) cost between low and high."""
    for prompt in range(tokens):
        output = tokens - prompt if total else tokens
        if low <= round(price.cost(Usage(prompt=prompt, answer=output)), 9) < high:
            yield prompt


def test_the_readings_of_the_article() -> None:
    """The ranges that docs/cost.md gives for the prompt, which the article does not tell."""
    cfg = config()
    v32, gemini = price_of(cfg.cost, "deepseek-v3.2"), price_of(cfg.cost, "gemini-3-pro")
    third = Price("third party", 0.26, 0.26, 0.38)
    text = PAGE.read_text()

    def span(price: Price, tokens: int, low: float, high: float, *, total: bool) -> tuple[int, int] | None:
        found = list(prompts(price, tokens, low, high, total=total))
        return (found[0], found[-1]) if found else None

    cheap, dear = (8077, 0.00315, 0.00325), (4972, 0.055, 0.065)
    assert span(v32, *cheap, total=True) == (1017, 1731)
    assert span(gemini, *dear, total=True) == (0, 466)
    assert span(v32, *cheap, total=False) is None  # 8,077 sampled tokens alone are $0.0034
    assert span(gemini, *dear, total=False) == (0, 2667)
    assert span(third, *cheap, total=False) == (311, 695)
    for piece in ("1,017 to 1,731", "0 to 466", "0 to 2,667", "311 to 695"):
        assert piece in text, piece
    assert money(v32.cost(Usage(answer=8077))) == "$0.0034"
