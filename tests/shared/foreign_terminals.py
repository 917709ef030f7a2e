"""Folders of terminal tasks in the forms of Harbor and terminal-bench, made on the spot."""

from __future__ import annotations

from pathlib import Path

from envs.taskset import Split, split_of

TESTS = """from pathlib import Path


def test_sum():
    assert Path("/app/sum.txt").read_text().strip() == "6"


def test_kept():
    assert Path("/app/data/numbers.txt").read_text() == "1\\n2\\n3\\n"
"""
SOLVE = "#!/bin/bash\nset -e\ncd data\nawk '{s += $1} END {print s}' numbers.txt > ../sum.txt\n"
DOCKERFILE = """FROM ubuntu:24.04
# programs that every host has
RUN apt-get update && apt-get install -y \\
    tar \\
    grep && rm -rf /var/lib/apt/lists/*
ARG FOLDER=data
WORKDIR /app
COPY numbers.txt ${FOLDER}/
ENV A=1 B="two words"
CMD ["sleep", "infinity"]
"""
RUN_TESTS = "#!/bin/bash\nuvx -p 3.13 -w pytest==8.4.1 pytest /tests/test_outputs.py -rA\n"
TOML = 'version = "1.0"\n[metadata]\ndifficulty = "medium"\n[environment]\ncpus = 1\nmemory = "2G"\n'


def named(stem: str, split: Split = "train") -> str:
    """A name that belongs to the split."""
    return next(name for n in range(99) if split_of(name := f"{stem}-{n}") == split)


def harbor(tasks: Path, stem: str, split: Split = "train", **changed: str) -> Path:
    """A folder of Harbor; ``changed``: other texts, "" for no such file."""
    folder = tasks / named(stem, split)
    files = {
        "task.toml": TOML,
        "instruction.md": "Write the sum of /app/data/numbers.txt to /app/sum.txt.",
        "environment/Dockerfile": DOCKERFILE,
        "environment/numbers.txt": "1\n2\n3\n",
        "solution/solve.sh": SOLVE,
        "tests/test.sh": RUN_TESTS,
        "tests/test_outputs.py": TESTS,
    }
    for path, text in (files | changed).items():
        if text:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return folder


def terminal_bench(tasks: Path, stem: str, compose: str = "") -> Path:
    """A folder of terminal-bench."""
    folder, image = tasks / named(stem), "ghcr.io/laude-institute/t-bench/ubuntu-24-04:20250624"
    (folder / "tests").mkdir(parents=True)
    (folder / "task.yaml").write_text("instruction: |-\n  Write the sum.\ndifficulty: hard\nparser_name: pytest\n")
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("ubuntu:24.04", image))
    (folder / "numbers.txt").write_text("1\n2\n3\n")
    (folder / "solution.sh").write_text(SOLVE)
    (folder / "run-tests.sh").write_text("uv run pytest $TEST_DIR/test_outputs.py -rA\n")
    (folder / "tests" / "test_outputs.py").write_text(TESTS)
    if compose:
        (folder / "docker-compose.yaml").write_text(compose)
    return folder
