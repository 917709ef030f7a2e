"""`rl-compare`: accuracy, tokens and money of several policies or models side by side.

    rl-compare sources=[runs/demo,runs/other]                 the last evaluations of two runs
    rl-compare sources=[runs/demo/eval,answers.jsonl]         an rl-eval output beside recorded answers

Writes ``compare.json`` and ``compare.md`` to ``out``. Every answer is one attempt: cost per answer = cost / answers,
cost per solved task = cost of all answers / answers that were right.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import CompareConfig


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("compare", run)


def run(cfg: CompareConfig) -> None:
    from rl.run.paths import output_directory
    from rl.run.preflight import configuration
    from rl.tracking.comparison import compare, markdown
    from rl.tracking.rundir import write_atomic

    with configuration():
        out = output_directory("out", cfg.out)
        result = compare(cfg)
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(result)
    write_atomic(out / "compare.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    write_atomic(out / "compare.md", text)
    print(text, end="")
    print(f"\nwritten: {out / 'compare.json'}, {out / 'compare.md'}")


if __name__ == "__main__":
    main()
