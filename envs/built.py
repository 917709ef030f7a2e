"""BuiltTaskset: the tasks of a data set that ``envs-build`` wrote, played by the families that made them.

    envs-build family=search n=50275 out=data/search
    envs-check built path=data/search
    rl-train env=built env.path=data/search

Nothing is generated any more: rows are read from memory-mapped Arrow files, and ``environment(task)`` comes from
the family's own taskset class with the settings in ``build.json``.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.environment import Environment
from envs.factory.plan import Plan
from envs.factory.rows import NUMBER_COLUMNS, TEXT_COLUMNS, task_of
from envs.factory.store import BUILD, FORMAT
from envs.families import taskset_class
from envs.taskset import Split, Taskset
from envs.types import Task


class BuiltTaskset(Taskset):
    """The tasks of one split of ``path``, in an order that ``seed`` decides.

    ``family``: only the tasks of this one. ``size``: the first so many of that order; at most, and by default, all.
    ``balance``: take turns between the families instead of mixing them by their numbers; by default so for the
    held-out split, of which an evaluation takes the beginning. ``settings`` replace keywords of the families' tasksets
    by family, ``settings={"search": {"max_output_chars": 500}}``.
    ``members``: the single-family tasksets of a data set that holds several families.
    """

    family = "built"
    env_class = Environment
    of_no_account = Taskset.of_no_account | {"balance"}

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        path: str | Path = "",
        family: str | None = None,
        balance: bool | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(split, seed, size)
        self.path = Path(path).absolute() if str(path) else Path()
        self.about = _about(self.path)
        self._rows: Any = None
        plan = Plan.from_json(self.about["plan"])
        owners = {
            name: part.source
            for part, record in zip(plan.parts, self.about["records"], strict=True)
            for name in record["families"]
        }
        if family is not None and family not in owners:
            raise ValueError(f"family={family}: {self.path} has {', '.join(owners)}")
        if unknown := set(settings or ()) - set(owners):
            raise ValueError(f"settings.{min(unknown)}: no such family in {self.path} ({', '.join(owners)})")
        names = self._column("family").to_pylist()
        by_family = {name: [i for i, own in enumerate(names) if own == name] for name in owners}
        by_family = {name: rows for name, rows in by_family.items() if rows and family in (None, name)}
        if not by_family:
            raise ValueError(f"split={split}: {self.path} has no task of {family} in it")
        self._order = _order(by_family, seed, split == "heldout" if balance is None else balance)
        self.size = min(len(self._order), size or len(self._order))
        self._players = {
            name: _player(plan, owners[name], split, dict((settings or {}).get(name, {}))) for name in by_family
        }
        turns = [player.max_turns for player in self._players.values()]
        self.max_turns = None if None in turns else max(turn for turn in turns if turn is not None)
        self.members: dict[str, Taskset] = {}
        if len(by_family) == 1:
            (self.family,) = by_family
            self.env_class = self._players[self.family].env_class
        else:
            for name in by_family:
                self.members[name] = BuiltTaskset(
                    split, seed, size, path, name, balance, settings and _of(settings, name)
                )

    def task(self, index: int) -> Task:
        row = self._order[index]
        return task_of({name: self._column(name)[row].as_py() for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS)})

    def environment(self, task: Task) -> Environment:
        return self._player_of(task).environment(task)

    def verify(self, task: Task) -> str | None:
        return self._player_of(task).verify(task)

    def fingerprint(self) -> str:
        """Over the data set and the source of the classes that play it."""
        digest = hashlib.sha256((self.path / BUILD).read_bytes())
        for name, player in sorted(self._players.items()):
            digest.update(f"{name} {player.fingerprint()}".encode())
            for cls in (type(player), player.env_class):
                digest.update(Path(inspect.getsourcefile(cls) or "").read_bytes())
        return digest.hexdigest()

    def inputs(self) -> dict[str, dict[str, Any]]:
        found = {"sha256": hashlib.sha256((self.path / BUILD).read_bytes()).hexdigest()}
        return {str(self.path): found} | {
            name: more for player in self._players.values() for name, more in player.inputs().items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_rows": None}  # opened again where it is unpickled

    def _player_of(self, task: Task) -> Taskset:
        if task.family not in self._players:
            raise ValueError(f"task {task.id} is of family {task.family!r}; here are {', '.join(self._players)}")
        return self._players[task.family]

    def _column(self, name: str) -> Any:
        if self._rows is None:
            self._rows = _open(self.path, self.split)
        return self._rows[name]


def _about(path: Path) -> dict[str, Any]:
    if str(path) == ".":
        raise ValueError("path is missing: give the folder that envs-build wrote, env.path=data/search")
    file = path / BUILD
    if not path.is_dir():
        raise ValueError(f"path={path}: there is no such folder; make it with envs-build family=... out={path}")
    if not file.is_file():
        unfinished = (path / ".build").is_dir()
        fix = (
            "is not finished: run its envs-build command again" if unfinished else f"has no {BUILD}: not by envs-build"
        )
        raise ValueError(f"path={path}: {fix}")
    about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if about["format"] != FORMAT:
        raise ValueError(f"path={path}: has format {about['format']}, this version reads {FORMAT}: build it again")
    return about


def _player(plan: Plan, number: int, split: Split, settings: dict[str, Any]) -> Taskset:
    source = plan.sources[number]
    cls = taskset_class(source.target)
    if cls.version != source.version:
        raise ValueError(
            f"{source.target} is of version {cls.version}, the data set was built with version {source.version}: "
            "build it again"
        )
    return cls(split=split, seed=plan.seed, **{**source.settings, **settings})


def _open(path: Path, split: str) -> Any:
    """The split's table, memory-mapped: nothing is read before it is asked for."""
    import pyarrow

    folder = path / split
    if not (folder / "state.json").is_file():
        there = sorted(p.parent.name for p in path.glob("[!.]*/state.json"))
        raise ValueError(f"split={split}: {path} has only {', '.join(there)}; build it with split=both")
    files = [entry["filename"] for entry in json.loads((folder / "state.json").read_text())["_data_files"]]
    tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(folder / name))).read_all() for name in files]
    return pyarrow.concat_tables(tables)


def _order(by_family: Mapping[str, Sequence[int]], seed: int, balance: bool) -> list[int]:
    rng = random.Random(f"built {seed}")
    shuffled = {name: rng.sample(rows, len(rows)) for name, rows in sorted(by_family.items())}
    if not balance:
        mixed = [row for rows in shuffled.values() for row in rows]
        rng.shuffle(mixed)
        return mixed
    longest = max(len(rows) for rows in shuffled.values())
    return [rows[i] for i in range(longest) for rows in shuffled.values() if i < len(rows)]


def _of(settings: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Mapping[str, Any]]:
    return {name: settings[name]} if name in settings else {}
