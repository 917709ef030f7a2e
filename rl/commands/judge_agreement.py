"""`rl-judge`: how far a judge agrees with answers labelled by hand, beside judges that know nothing.

rl-judge judge=worker judge.path=<directory> judge.renderer=hf
rl-judge judge=endpoint judge.client.base_url=http://host:8000/v1 judge.client.model=<name> votes=3
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import AgreementConfig
    from rewards.agreement import Item, Measure
    from rewards.judge import Judge
    from rewards.rubric import Assessment


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("agreement", run)


def run(cfg: AgreementConfig) -> dict[str, Any]:
    """Ask the judge about every item; returns what is also in ``cfg.out``."""
    from hydra.utils import instantiate

    from rewards.agreement import YARDSTICKS, agreement, read_items, to_json
    from rl.run.assemble import cluster, open_judge
    from rl.run.paths import existing_file, output_file
    from rl.run.preflight import check_judge, configuration
    from rl.tracking.rundir import write_atomic

    with configuration():
        items = read_items(existing_file("data", cfg.data))
        if cfg.judge.is_worker and cfg.judge.path is None:
            raise ValueError("judge.path is missing: rl-judge judge=worker needs judge.path=<directory of its model>")
        check_judge(cfg.judge)
        client = None if cfg.judge.client is None else instantiate(cfg.judge.client)
        if cfg.out is not None:
            output_file("out", cfg.out)
    result: dict[str, Any] = {"data": cfg.data, "items": len(items), "judges": {}}
    measured: dict[str, Mapping[str, Measure]] = {}
    for name, judge in YARDSTICKS.items():
        measured[name] = agreement(items, [judge(item) for item in items], draws=cfg.draws, seed=cfg.seed)
    if client is not None:
        started = time.perf_counter()
        if cfg.judge.is_worker:
            with cluster(cfg.ray, 2), open_judge(cfg):
                started = time.perf_counter()
                assessed = asyncio.run(assess(client, items, cfg))
        else:
            assessed = asyncio.run(assess(client, items, cfg))
        found = [_mean(one) for one in assessed]
        measured["judge"] = agreement(items, found, draws=cfg.draws, seed=cfg.seed)
        result |= {
            "judge": cfg.judge.path or (cfg.judge.client or {}).get("model"),
            "wall_s": round(time.perf_counter() - started, 1),
            "prompt_tokens": sum(one.prompt_tokens for one in assessed),
            "completion_tokens": sum(one.completion_tokens for one in assessed),
            "problems": dict(Counter(kind for one in assessed for kind in one.problems)),
            "last_problem": next((one.said for one in reversed(assessed) if one.said), ""),
            "scores": {item.id: scores for item, scores in zip(items, found, strict=True)},
        }
    result["judges"] = {name: to_json(measures) for name, measures in measured.items()}
    if cfg.out is not None:
        Path(cfg.out).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(cfg.out), json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    _show(cfg, result, measured)
    return result


async def assess(judge: Judge, items: Sequence[Item], cfg: AgreementConfig) -> list[Assessment]:
    """All items at once: the judge decides how many it takes together."""
    from rewards.rubric import Rubric

    part = Rubric(
        judge=judge,
        votes=cfg.votes,
        retries=cfg.retries,
        temperature=cfg.temperature,
        max_tokens=cfg.max_tokens,
        reason_chars=cfg.reason_chars,
    )
    return list(await asyncio.gather(*(part.assess(item.prompt, item.answer, item.criteria) for item in items)))


def _mean(assessment: Assessment) -> dict[str, float] | None:
    """Points per criterion, averaged over the votes."""
    if assessment.value is None:
        return None
    votes = assessment.scores
    return {key: statistics.fmean(vote[key] for vote in votes) for key in votes[0]}


def _show(cfg: AgreementConfig, result: Mapping[str, Any], measured: Mapping[str, Mapping[str, Measure]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from rewards.agreement import MEASURES

    title = f"agreement with {result['items']} labelled answers, 95 % intervals"
    table = Table("judge", *MEASURES, title=title)
    for name, measures in measured.items():
        shown = str(result.get("judge", name)) if name == "judge" else name
        table.add_row(shown, *(_cell(measures[m]) for m in MEASURES))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    if "judge" in result:
        spent = f"{result['prompt_tokens']:,} prompt and {result['completion_tokens']:,} completion tokens"
        console.print(f"{result['wall_s']} s, {spent}; replies that could not be used: {result['problems'] or 'none'}")
        if result["last_problem"]:
            console.print(f"the last of them: {result['last_problem']}", markup=False, highlight=False)
    if cfg.out is not None:
        console.print(f"written to {cfg.out}")


def _cell(measure: Measure) -> str:
    if measure.value is None:
        return "not defined"
    return f"{measure.value:.2f} ({measure.low:.2f} … {measure.high:.2f})"


if __name__ == "__main__":
    main()
