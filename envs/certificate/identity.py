"""Which task set it is: the class and settings that make it, its rows, and the code that plays it.

    identity = identity_of(taskset)
    identity.rows["sha256"], identity.code["sha256"]
    differences(stored, identity)         ["code (my_module)"]: what is not as it was

Names and places of files do not count, their content does. A task set without files is known by its first tasks.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from envs.closure import OURS, closure
from envs.curriculum import CurriculumTaskset
from envs.environment import Environment
from envs.factory.rows import row_of
from envs.families import names_of
from envs.mixture import MixTaskset, families_of
from envs.taskset import Split, Taskset
from envs.url_secrets import cleaned

SAMPLE = 5  # tasks that stand for the rows of a task set without files
ROWS = "(its rows)"  # in place of a file's name in the settings
_LONGEST = 400  # characters of a setting that are written out
_BRIDGES = "envs.bridges."  # of ours, to what is not


@dataclass(frozen=True)
class Identity:
    """``settings``: those that are no defaults. ``rows``: ``sha256``, and ``files`` (name, rows, sha256) or ``tasks``,
    ``split`` and ``seed`` of the tasks it is over. ``code``: ``sha256``, and 12 digits of that of each module."""

    made_by: str
    families: list[str]
    settings: dict[str, Any]
    rows: dict[str, Any]
    code: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def identity_of(taskset: Taskset, sampled: Mapping[str, Any] | None = None) -> Identity:
    """The identity of a task set. ``sampled``: ``split`` and ``seed`` at which a task set without files is looked at
    (default: its own)."""
    modules = _modules(taskset)
    cls = type(taskset)
    return Identity(
        f"{cls.__module__}.{cls.__qualname__}",
        families_of(taskset),
        {name: _short(cleaned(_unnamed(value, taskset))) for name, value in settings_of(taskset).items()},
        _rows(taskset, sampled or {}),
        {"sha256": _digest(sorted(modules.items())), "modules": {n: h[:12] for n, h in sorted(modules.items())}},
    )


def differences(stored: Mapping[str, Any], now: Identity) -> list[str]:
    """What of ``stored`` (an identity as JSON) is not so any more, each with what it is in."""
    found = []
    if changed := _changed(stored["settings"], now.settings):
        found.append(f"settings ({', '.join(changed)})")
    if stored["rows"]["sha256"] != now.rows["sha256"]:
        names = [file["name"] for file in now.rows.get("files", ())] or ["its tasks"]
        found.append(f"rows ({', '.join(names)})")
    if stored["code"]["sha256"] != now.code["sha256"]:
        changed = _changed(stored["code"]["modules"], now.code["modules"])
        others = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        found.append(f"code ({', '.join(changed[:3])}{others})")
    return found


def parts_of(taskset: Taskset) -> list[Taskset]:
    """The task sets that a mixture or a curriculum serves: each is checked by itself."""
    if isinstance(taskset, CurriculumTaskset):
        return parts_of(taskset.inner)
    if isinstance(taskset, MixTaskset):
        return [part for member in taskset.members.values() for part in parts_of(member)]
    return [taskset]


def is_ours(taskset: Taskset) -> bool:
    """Whether all of it comes with this package: its class, the code that it runs, and what it reads. What a bridge
    brings is another library's."""
    if f"{type(taskset).__module__}.".startswith(_BRIDGES) or taskset.inputs():
        return False
    return {name.partition(".")[0] for name in closure((taskset,))} <= set(OURS)


def settings_of(taskset: Taskset, left_out: Collection[str] | None = None) -> dict[str, Any]:
    """The keywords that it was made with, as JSON values, without the defaults and ``left_out`` (None: what is of no
    account)."""
    left_out = taskset.of_no_account if left_out is None else left_out
    defaults = dict(_defaults(taskset))
    found = {}
    for name, value in sorted(taskset.given.items()):
        plain = _plain(value)
        known = name in defaults or hasattr(Environment, name)
        default = defaults[name] if name in defaults else getattr(taskset.env_class, name, None)
        if name not in left_out and not (known and plain == _plain(default)):
            found[name] = plain
    return found


def command_of(taskset: Taskset) -> str:
    """The command that checks it, with where its material lies."""
    cls = type(taskset)
    words = ["envs-check", names_of(cls)[0]]
    for name, value in settings_of(taskset, Taskset.of_no_account).items():
        text = value if isinstance(value, str) and not _is_json(value) else json.dumps(value, ensure_ascii=False)
        words.append(f"{name}={text}")
    return shlex.join(words)


def data_files(taskset: Taskset) -> dict[str, dict[str, Any]]:
    """What of ``inputs()`` holds rows, and no code."""
    return {
        name: about
        for name, about in taskset.inputs().items()
        if "rows" in about or (Path(name).exists() and not name.endswith(".py"))
    }


def _rows(taskset: Taskset, sampled: Mapping[str, Any]) -> dict[str, Any]:
    if files := data_files(taskset):
        told = [{"name": Path(name).name, **about, "sha256": _content(name, about)} for name, about in files.items()]
        return {"sha256": _digest(sorted(file["sha256"] for file in told)), "files": told}
    split: Split = sampled.get("split", taskset.split)
    seed = sampled.get("seed", taskset.seed)
    if (split, seed) != (taskset.split, taskset.seed):
        taskset = type(taskset)(**{**taskset.given, "split": split, "seed": seed, "size": None})
    tasks = [row_of(taskset.task(index)) for index in range(min(SAMPLE, len(taskset)))]
    return {"sha256": _digest(tasks), "tasks": len(tasks), "split": split, "seed": seed}


def _content(name: str, about: Mapping[str, Any]) -> str:
    """SHA-256 of rows. What ``envs-build`` wrote names itself by its ``build.json``: here its tables count."""
    tables = sorted(Path(name).glob("*/*.arrow")) if "rows" not in about else []
    found = []
    for table in tables:
        with table.open("rb") as file:
            found.append([table.parent.name, hashlib.file_digest(file, "sha256").hexdigest()])
    return _digest(found) if found else str(about["sha256"])


def _modules(taskset: Taskset) -> dict[str, str]:
    """SHA-256 by module (or file next to one, or script of a bridge) that decides what a task is and how it is scored.

    ``__init__`` and the like of the same file count once; files are named without their place."""
    found = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in closure((taskset,)).items()}
    rows = data_files(taskset)
    return found | {Path(name).name: about["sha256"] for name, about in taskset.inputs().items() if name not in rows}


def _defaults(taskset: Taskset) -> Iterator[tuple[str, Any]]:
    """Of the constructors of its environment, then of its own: later ones count."""
    for cls in (taskset.env_class, type(taskset)):
        for owner in reversed(cls.__mro__):
            made_by = vars(owner).get("__init__") if owner is not object else None
            for parameter in inspect.signature(made_by).parameters.values() if made_by else ():
                if parameter.default is not parameter.empty:
                    yield parameter.name, parameter.default


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _unnamed(value: Any, taskset: Taskset) -> Any:
    """A file of rows may have any name, and lie anywhere."""
    files = {Path(name).absolute() for name in data_files(taskset)}
    return ROWS if isinstance(value, str) and value and Path(value).absolute() in files else value


def _short(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return value if len(text) <= _LONGEST else {"sha256": _digest(value), "characters": len(text)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    absent = object()
    return sorted(name for name in {*before, *now} if before.get(name, absent) != now.get(name, absent))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
