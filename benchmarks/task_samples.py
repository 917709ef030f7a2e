"""Tasks as the policy sees them, drawn at random: what a datasheet shows.

    python -m benchmarks.task_samples family=repo n=10 'packages=["toolz"]'
    python -m benchmarks.task_samples family=notebook n=10
    python -m benchmarks.task_samples family=built path=data/releases n=10

Every other word is a keyword of the taskset. Printed are the task's id, what its metadata says of level, kind and tier,
the user's message, and the gold answer where there is one.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

from envs.check import parse_settings
from envs.families import taskset_class
from envs.taskset import RejectedError

_SAID = ("level", "kind", "topic", "tier", "package", "version", "licence")


def main(argv: Sequence[str] | None = None) -> int:
    try:
        options = parse_settings(list(sys.argv[1:] if argv is None else argv))
        number, family = int(options.pop("n", 10)), str(options.pop("family", "built"))
        if number < 1:
            raise ValueError(f"n={number}: must be at least 1")
        taskset = taskset_class(family)(**options)
        indices = random.Random(0).sample(range(len(taskset)), min(number, len(taskset)))
        tasks = [taskset.task(index) for index in indices]
    except (ValueError, TypeError, ModuleNotFoundError, FileNotFoundError, RejectedError) as error:
        print(f"benchmarks.task_samples: {error}", file=sys.stderr)
        return 2
    for task in tasks:
        about = " · ".join(f"{name} {task.metadata[name]}" for name in _SAID if name in task.metadata)
        print(f"## {task.id}\n\n{about}\n\n{task.prompt[-1].content}\n")
        if task.answer is not None:
            print(f"Answer: {task.answer}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
