"""Cold start (V3.2 sec. 3.2.2): supervised training on the environments' own demonstrations.

As in DeepSeek-V3.2 the patterns it teaches are "not robust but occasionally right": the novice demonstrator has the
right formats and doubtful decisions (guesses without the tool, wrong tool, no check). RL finds the good ones.
The DSA indexer is trained beside by its KL loss; attention is sparse, as in rollouts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import ColdStartConfig
    from envs.taskset import Taskset
    from rl.chat.renderer import Renderer
    from rl.data.corpus import Document
    from rl.data.demos import Dropped
    from rl.learner.trainer import Means
    from rl.rollout.config import RolloutConfig
    from rl.run.job import Report


FIGURES = "coldstart.json"


@dataclass
class Demonstrated:
    """The demonstrations that are used: (family, outcome) and documents of each. ``more``: figures of their own."""

    outcomes: list[tuple[str, float]] = field(default_factory=list)
    documents: list[list[Document]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


def coldstart(
    base_dir: Path,
    config: ColdStartConfig,
    taskset: Taskset,
    seed: int,
    out: Path,
    report: Report,
    renderer: Renderer,
    rollout: RolloutConfig,
    means: Means | None = None,
) -> dict[str, Any]:
    """Train the policy of ``base_dir`` on demonstrations; policy, tokenizer and demonstrations go into ``out``.

    ``rollout``: whether the policy thinks, and with ``config.as_rollouts`` all that the demonstrations are played
    under. Returns figures: how many demonstrations were asked for, kept and dropped, what they need of the limits
    (``rl.data.fit``), their outcome per family, steps, tokens, seconds, last loss. Without one that can be used nothing
    is trained, and the figures say why under ``off``: RL then starts from the base policy.
    """
    from rl.data.demos import Dropped, demonstrated
    from rl.data.fit import Needs
    from rl.recipes.supervised import supervised

    started = time.perf_counter()
    indices = demonstrated(taskset, config.demos)
    dropped = Dropped()
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 32 == 0 or done == len(indices):
            report("demonstrations", done, len(indices), {})

    play = _rehearsed if config.as_rollouts else _played
    found = play(taskset, indices, config.novice_share, seed, renderer, rollout, tick, dropped, out / "demos")
    figures: dict[str, Any] = {"asked": config.demos, "tasks": len(indices), "demos": len(found.outcomes)}
    figures |= {"dropped": dict(dropped.counts), "dropped_words": dropped.words()}
    if found.outcomes:
        figures |= {"needs": Needs.of(found.documents).to_json(), "demo_outcome": demo_outcomes(found.outcomes)}
        documents = [document for of_a_task in found.documents for document in of_a_task]
        figures |= {**found.more, **supervised(base_dir, config, documents, seed, out, report, means)}
    else:
        figures["off"] = f"none of {len(indices):,} tasks has a demonstration that can be used: {dropped.words()}"
    figures["wall_s"] = round(time.perf_counter() - started, 1)
    (out / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def notices(figures: Mapping[str, Any], rollout: RolloutConfig) -> list[str]:
    """What the figures of a cold start have to say to its user, a sentence each; [] when all is as it was asked for."""
    from rl.data.fit import Needs

    if "off" in figures:
        return [f"off, RL starts from the base policy: {figures['off']}"]
    said = []
    if figures["tasks"] < figures["asked"]:
        said.append(f"{figures['tasks']:,} tasks for coldstart.demos={figures['asked']}: each is demonstrated once")
    if figures["dropped_words"]:
        said.append(f"{figures['demos']:,} demonstrations used, dropped: {figures['dropped_words']}")
    needs = Needs.from_json(figures["needs"])
    if settings := needs.settings(rollout):
        said.append(f"some demonstrations need more than a rollout may use ({needs.words()}): set {' '.join(settings)}")
    return said


def demo_outcomes(outcomes: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Mean outcome of the demonstrations (family, outcome) per family: how imperfect they are."""
    families = sorted({family for family, _ in outcomes})
    means = {}
    for family in families:
        scores = [outcome for name, outcome in outcomes if name == family]
        means[family] = round(sum(scores) / len(scores), 3)
    return means


def _played(
    taskset: Taskset, indices: Sequence[int], novice_share: float, seed: int, renderer: Renderer,
    rollout: RolloutConfig, tick: Callable[[], None], dropped: Dropped, out: Path,
) -> Demonstrated:  # fmt: skip
    """Episodes without limits, then their tokens; those that the chat format cannot write are dropped."""
    from rl.data.corpus import Dialogue, encode
    from rl.data.demos import UNRENDERED, demonstrations, save_demos

    kept = []
    for demo in demonstrations(taskset, indices, novice_share, seed, dropped=dropped, tick=tick):
        try:
            kept.append((demo, encode(renderer, [Dialogue(demo.family, rollout.thinking, demo.messages, demo.turns)])))
        except ValueError as error:  # RenderError too
            dropped.add(UNRENDERED, f"{demo.task_id}: {error}")
    if kept:
        save_demos(out, kept)
    return Demonstrated([(d.family, d.outcome) for d, _ in kept], [documents for _, documents in kept])


def _rehearsed(
    taskset: Taskset, indices: Sequence[int], novice_share: float, seed: int, renderer: Renderer,
    rollout: RolloutConfig, tick: Callable[[], None], dropped: Dropped, out: Path,
) -> Demonstrated:  # fmt: skip
    """Episodes through the rollout loop, under all its limits."""
    from rl.data.corpus import documents, save_data
    from rl.data.rehearse import rehearse
    from rl.tracking.episodes import event_counts
    from rl.types import OUTCOME

    played = rehearse(taskset, indices, novice_share, seed, renderer, rollout, tick, dropped)
    save_data(out, played)
    outcomes = [(t.family, t.reward_parts[OUTCOME]) for t in played]
    return Demonstrated(outcomes, [documents([t]) for t in played], {"counts": dict(event_counts(played)[0])})
