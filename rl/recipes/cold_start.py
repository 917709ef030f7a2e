"""Cold start (V3.2 sec. 3.2.2): supervised training on the environments' own demonstrations.

As in DeepSeek-V3.2 the patterns it teaches are "not robust but occasionally right": the novice demonstrator has the
right formats and doubtful decisions (guesses without the tool, wrong tool, no check). RL finds the good ones.
The DSA indexer is trained beside by its KL loss; attention is sparse, as in rollouts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import ColdStartConfig
    from envs.taskset import Taskset
    from rl.chat.renderer import Renderer
    from rl.data.demos import Demo
    from rl.rollout.config import RolloutConfig
    from rl.run.job import Report


FIGURES = "coldstart.json"


def coldstart(
    base_dir: Path,
    config: ColdStartConfig,
    taskset: Taskset,
    seed: int,
    out: Path,
    report: Report,
    renderer: Renderer,
    rollout: RolloutConfig,
) -> dict[str, Any]:
    """Train the policy of ``base_dir`` on demonstrations; policy, tokenizer and demonstrations go into ``out``.

    ``rollout``: whether the policy thinks, and with ``config.as_rollouts`` all that the demonstrations are played
    under. Returns figures: outcome of the demonstrations per family, steps, tokens, seconds, last loss.
    """
    from rl.recipes.supervised import supervised

    started = time.perf_counter()
    indices = [taskset.index_at(turn) for turn in range(config.demos)]  # also of a data set with fewer rows

    def tick(done: int) -> None:
        if done % 32 == 0 or done == config.demos:
            report("demonstrations", done, config.demos, {})

    if config.as_rollouts:
        from rl.data.corpus import documents as documents_of
        from rl.data.corpus import save_data
        from rl.data.rehearse import rehearse
        from rl.tracking.episodes import event_counts
        from rl.types import OUTCOME

        played = rehearse(taskset, indices, config.novice_share, seed, renderer, rollout, tick)
        outcomes = [(t.family, t.reward_parts[OUTCOME]) for t in played]
        documents = documents_of(played)
        save_data(out / "demos", played)
        more = {"counts": dict(event_counts(played)[0])}
    else:
        from rl.data.corpus import encode
        from rl.data.demos import demonstrations, save_demos

        demos: list[Demo] = []
        for demo in demonstrations(taskset, indices, config.novice_share, seed):
            demos.append(demo)
            tick(len(demos))
        outcomes = [(d.family, d.outcome) for d in demos]
        documents = encode(renderer, [(d.family, rollout.thinking, d.messages) for d in demos])
        save_demos(out / "demos", demos, documents)
        more = {}
    trained = supervised(base_dir, config, documents, seed, out, report)
    figures = {
        "demos": len(outcomes),
        "demo_outcome": demo_outcomes(outcomes),
        **more,
        **trained,
        "wall_s": round(time.perf_counter() - started, 1),
    }
    (out / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def demo_outcomes(outcomes: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Mean outcome of the demonstrations (family, outcome) per family: how imperfect they are."""
    families = sorted({family for family, _ in outcomes})
    means = {}
    for family in families:
        scores = [outcome for name, outcome in outcomes if name == family]
        means[family] = round(sum(scores) / len(scores), 3)
    return means
