"""The teachers of on-policy distillation before a run has a folder: where they lie, and whether they can teach it.

Log-probs of two policies are compared token id by token id, so both must mean the same by every id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rl.run.paths import policy_directory

if TYPE_CHECKING:
    from rl.objective.config import ObjectiveConfig, TeachingConfig


def with_directories(objective: ObjectiveConfig, runs_dir: str) -> ObjectiveConfig:
    """``objective`` with the directory of every teacher, as the learner takes them. A pipeline's may hold an adapter of
    the policy's own base."""
    found = {
        family: str(teacher_directory(family, setting, runs_dir).resolve())
        for family, setting in objective.distill.teachers.items()
    }
    return replace(objective, distill=replace(objective.distill, teachers=found))


def teacher_directory(family: str, setting: str, runs_dir: str) -> Path:
    """The policy of the run ``setting`` in ``runs_dir``, else the directory (or hub's model) of that name.

    Raises ValueError when there is none.
    """
    from rl.policy.checkpoint_files import ADAPTER  # loads torch

    run = Path(runs_dir) / setting / "policy"
    if (run / "config.json").is_file():
        return run
    if (Path(setting) / ADAPTER).is_file():
        return Path(setting)
    return policy_directory(f"objective.distill.teachers.{family}", setting)


def check_untaught(distill: TeachingConfig) -> None:
    """Raise ValueError for settings of a distillation in which nobody teaches."""
    plain = type(distill)()
    for field in fields(plain):
        if (value := getattr(distill, field.name)) != getattr(plain, field.name):
            raise ValueError(
                f"objective.distill.{field.name}={value}: nobody teaches; name a teacher, "
                "objective.distill.teachers={default: <policy>}"
            )


def check_teachers(
    objective: ObjectiveConfig, runs_dir: str, policy: Path | None, check_policy: Callable[[Path], None]
) -> None:
    """Raise ValueError, in one line, for a teacher that is not there, that ``check_policy`` refuses, or that has other
    tokens than the ``policy`` that is to learn (None: its tokenizer is made by the run)."""
    for family, setting in objective.distill.teachers.items():
        field = f"objective.distill.teachers.{family}={setting}"
        if policy is None:
            raise ValueError(f"{field} with base=scratch: a tokenizer that is trained by the run is no teacher's")
        directory = teacher_directory(family, setting, runs_dir)
        try:
            check_policy(directory)
            why = other_tokens(directory, policy)
        except (ValueError, OSError) as error:
            raise ValueError(f"{field}: {' '.join(str(error).split())}") from error
        if why:
            raise ValueError(f"{field}: {why}; its tokens must be those of the policy in '{policy}'")


def other_tokens(one: Path, other: Path) -> str:
    """How the vocabularies of two policies differ, in words; empty when they do not."""
    from tokenizers import Tokenizer

    from rl.policy.checkpoint_checks import read_config

    sizes = [read_config(directory).get("vocab_size") for directory in (one, other)]
    if sizes[0] != sizes[1]:
        return f"its vocabulary has {sizes[0]} rows, not {sizes[1]}"
    files = [directory / "tokenizer.json" for directory in (one, other)]
    missing = [file for file in files if not file.is_file()]
    if missing:
        return f"'{missing[0]}' is not there, so tokens cannot be compared"
    if files[0].read_bytes() == files[1].read_bytes():
        return ""
    mine, its = (Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True) for file in files)
    if mine == its:
        return ""
    token = min(token for token in mine.keys() | its.keys() if mine.get(token) != its.get(token))
    return f"its tokenizer has {token!r} as {mine.get(token, 'no token')}, not as {its.get(token, 'no token')}"
