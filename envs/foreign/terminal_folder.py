"""One task's folder in the form of terminal-bench or of Harbor, read and not yet run.

    task = read_folder(Path("tasks/hello-world"))

==================  =============================================  =================================================
                    terminal-bench                                 Harbor
==================  =============================================  =================================================
instruction         ``task.yaml``: ``instruction``                 ``instruction.md``
image               ``Dockerfile``, ``docker-compose.yaml``        ``environment/Dockerfile``, ``task.toml``
solution            ``solution.sh``                                ``solution/solve.sh``
tests               ``tests/test_*.py``, run by ``run-tests.sh``   ``tests/test_*.py``, run by ``tests/test.sh``
==================  =============================================  =================================================

RefusedError says what of a folder the sandbox cannot give, and where it stands.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.foreign.dockerfile import Image, check_start, inside, read_dockerfile
from envs.foreign.examined import RefusedError

_COMPOSE = {"build", "image", "container_name", "command", "environment", "volumes", "working_dir"}
_ENVIRONMENT = {"build_timeout_sec", "cpus", "memory", "memory_mb", "storage", "storage_mb", "gpus", "allow_internet",
                "env", "workdir"}  # fmt: skip
_MAX_TESTS = 16 << 20


@dataclass(frozen=True, eq=False)
class TerminalFolder:
    """``tests``: content by path below ``tests/``; ``cases``: those of them that pytest runs; ``level``: 1 to 3."""

    name: str
    instruction: str
    image: Image
    solution: str
    tests: Mapping[str, bytes]
    cases: tuple[str, ...]
    level: int


def task_folders(path: Path) -> tuple[list[Path], list[Path]]:
    """The folders of tasks at or directly below ``path``; and those below it that are none, where it is none itself."""
    if _is_task(path):
        return [path], []
    below = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    return [f for f in below if _is_task(f)], [f for f in below if not _is_task(f)]


def _is_task(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("task.yaml", "task.toml"))


def read_folder(folder: Path) -> TerminalFolder:
    """Raises RefusedError with what cannot be had."""
    try:
        return _harbor(folder) if (folder / "task.toml").is_file() else _terminal_bench(folder)
    except RefusedError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:  # values of other types than the form has
        raise RefusedError(f"it is not in the form that it should have: {type(error).__name__}: {error}") from error


def _terminal_bench(folder: Path) -> TerminalFolder:
    import yaml

    try:
        about = yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RefusedError(f"task.yaml cannot be read: {' '.join(str(error).split())[:200]}") from error
    instruction = about.get("instruction") if isinstance(about, dict) else None
    if not isinstance(instruction, str) or not instruction.strip():
        raise RefusedError("task.yaml has no instruction")
    if (parser := about.get("parser_name", "pytest")) != "pytest":
        raise RefusedError(f"task.yaml: parser_name is {parser}, wanted pytest")
    image = read_dockerfile(folder / "Dockerfile")
    for name in ("docker-compose.yaml", "docker-compose.yml"):
        if (folder / name).is_file():
            try:
                compose = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise RefusedError(f"{name} cannot be read: {' '.join(str(error).split())[:200]}") from error
            _compose(name, compose, image)
    return _task(folder, instruction, image, "solution.sh", "run-tests.sh", about.get("difficulty"))


def _harbor(folder: Path) -> TerminalFolder:
    try:
        about = tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RefusedError(f"task.toml cannot be read: {error}") from error
    if about.get("steps"):
        raise RefusedError("task.toml: steps: a task in several steps is not emulated")
    wanted = about.get("environment", {})
    if wanted.get("gpus"):
        raise RefusedError(f"task.toml: environment.gpus={wanted['gpus']}: the sandbox has none")
    if wanted.get("docker_image"):
        raise RefusedError(
            f"task.toml: environment.docker_image={wanted['docker_image']}: a made image is not emulated"
        )
    if other := sorted(set(wanted) - _ENVIRONMENT):
        raise RefusedError(f"task.toml: environment.{other[0]} is not emulated")
    for name in ("docker-compose.yaml", "docker-compose.yml", "compose.yaml"):
        if (folder / "environment" / name).is_file():
            raise RefusedError(f"environment/{name}: several containers are not emulated")
    if not (folder / "instruction.md").is_file():
        raise RefusedError("there is no instruction.md")
    try:
        instruction = (folder / "instruction.md").read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(f"instruction.md cannot be read: {error}") from error
    if not instruction.strip():
        raise RefusedError("instruction.md is empty")
    image = read_dockerfile(folder / "environment" / "Dockerfile")
    image.environment |= {str(name): str(value) for name, value in wanted.get("env", {}).items()}
    if "workdir" in wanted:
        _begin_in(wanted["workdir"], "task.toml: environment.workdir", image)
    difficulty = about.get("metadata", {}).get("difficulty")
    return _task(folder, instruction, image, "solution/solve.sh", "tests/test.sh", difficulty)


def _compose(name: str, about: Any, image: Image) -> None:
    """Take on what a compose file with one container adds: variables, a folder."""
    services = about.get("services", {}) if isinstance(about, dict) else {}
    if len(services) != 1:
        raise RefusedError(f"{name}: {len(services)} services ({', '.join(services)}): one container is emulated")
    ((service, settings),) = services.items()
    if other := sorted(set(settings) - _COMPOSE):
        raise RefusedError(f"{name}: {service}.{other[0]} is not emulated")
    for volume in settings.get("volumes", ()):
        if not str(volume).startswith("${T_BENCH_"):
            raise RefusedError(f"{name}: {service}.volumes: {volume} is not emulated")
    command = settings.get("command") or ()
    try:
        check_start(shlex.split(command) if isinstance(command, str) else [str(word) for word in command])
    except RefusedError as error:
        raise RefusedError(f"{name}: {service}.command: {error} ({command!r:.100})") from error
    if "working_dir" in settings:
        _begin_in(settings["working_dir"], f"{name}: {service}.working_dir", image)
    given = settings.get("environment", {})
    pairs = given.items() if isinstance(given, dict) else (str(line).partition("=")[::2] for line in given)
    image.environment |= {str(key): str(value) for key, value in pairs if "$" not in str(value)}


def _begin_in(folder: object, place: str, image: Image) -> None:
    """The folder that commands begin in, as ``place`` wants it; it is made, as Docker does."""
    if not isinstance(folder, str) or not folder.startswith("/"):
        raise RefusedError(f"{place}={folder!r:.80}: must be an absolute path")
    try:
        image.folder = inside(folder)
    except RefusedError as error:
        raise RefusedError(f"{place}: {error}") from error
    image.folders.append(image.folder)


def _task(
    folder: Path, instruction: str, image: Image, solution: str, script: str, difficulty: object
) -> TerminalFolder:
    if not (folder / solution).is_file():
        raise RefusedError(f"there is no {solution}: nothing shows that the task can be solved")
    tests = dict(_tests(folder / "tests"))
    cases = tuple(path for path in tests if re.search(r"(^|/)test_[^/]*\.py$", path))
    runs = (folder / script).read_text(encoding="utf-8", errors="replace") if (folder / script).is_file() else ""
    if not cases or "pytest" not in runs:
        raise RefusedError(
            f"{script} does not run pytest on a tests/test_*.py: a verdict of a script, written beside what the policy "
            "made, could be forged"
        )
    level = {"easy": 1, "medium": 2, "hard": 3}.get(str(difficulty).lower(), 1)
    text = (folder / solution).read_text(encoding="utf-8", errors="replace")
    return TerminalFolder(folder.name, instruction.strip(), image, text, tests, cases, level)


def _tests(folder: Path) -> Iterator[tuple[str, bytes]]:
    total = 0
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file() and "__pycache__" not in path.parts and path.resolve().is_relative_to(folder.resolve()):
            total += path.stat().st_size
            if total > _MAX_TESTS:
                raise RefusedError(f"tests/ has more than {_MAX_TESTS >> 20} MB")
            yield path.relative_to(folder).as_posix(), path.read_bytes()
