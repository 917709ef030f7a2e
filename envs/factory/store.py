"""Where a build lives on disk.

    out/.build/state.json       the plan, and how far each part is
    out/.build/p0-00003.parquet rows of part 0 that were kept, in shards
    out/train/ out/heldout/     the finished data set (``datasets.load_from_disk("out")`` reads it)
    out/build.json              plan, counts and versions of what was built
    out/README.md               the card

Shards and state are replaced atomically, the state last: a build that was killed goes on from the last state, and
shards that it does not know of are written again. ``.build`` goes when the data set is there, but for parts that ended
by the clock and may go on.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from envs.factory.plan import Plan
from envs.factory.rows import NUMBER_COLUMNS, TEXT_COLUMNS, Row

FORMAT = 1
BUILD, STATE, CARD = "build.json", "state.json", "README.md"


class BuildError(RuntimeError):
    """The build cannot go on. The message says why and what to do."""


@dataclass
class Record:
    """How far one part is. All of it follows from the plan but ``seconds``."""

    next: int = 0  # the first candidate that is not yet accounted for
    kept: int = 0
    rejects: dict[str, int] = field(default_factory=dict)  # by reason
    levels: dict[str, int] = field(default_factory=dict)  # kept tasks by level
    families: dict[str, int] = field(default_factory=dict)  # and by Task.family
    examples: dict[str, str] = field(default_factory=dict)  # of exceptions: the first of each kind
    fruitless: int = 0  # candidates in a row that were not kept
    block_errors: int = 0  # exceptions in the present block of candidates
    shards: int = 0
    seconds: float = 0.0
    done: bool = False
    ran_out: str = ""  # why there are fewer than wanted
    timed: bool = False  # it ended by the clock (``Plan.build_s``), and can go on


class Store:
    """The files of one build. Raises BuildError when ``out`` holds something else."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan = out, plan
        self.work = out / ".build"
        self.records = [Record() for _ in plan.parts]
        self._read()

    def _read(self) -> None:
        self.finished = (self.out / BUILD).is_file()
        state = self.out / BUILD if self.finished else self.work / STATE
        if state.is_file():
            raw = json.loads(state.read_text(encoding="utf-8"))
            self._same_plan(raw)
            self.records = [Record(**record) for record in raw["records"]]
            self._more_time()
        elif self.out.exists() and any(path != self.work for path in self.out.iterdir()):
            raise BuildError(f"out={self.out}: holds something that envs-build did not write; choose another folder")

    def _more_time(self) -> None:
        """Parts that ended by the clock go on when they are given more of it."""
        for record in self.records:
            if record.timed and not 0 < self.plan.build_s <= record.seconds:
                record.done, record.timed, record.ran_out, self.finished = False, False, "", False

    def _same_plan(self, raw: Mapping[str, Any]) -> None:
        if raw.get("format") != FORMAT:
            raise BuildError(f"out={self.out}: has format {raw.get('format')}, this version writes {FORMAT}")
        mine = json.loads(json.dumps(self.plan.to_json()))
        for name, theirs in raw["plan"].items():
            if mine[name] != theirs and name != "build_s":
                place, was, now = _difference(name, theirs, mine[name])
                raise BuildError(
                    f"out={self.out}: holds a build with other {place}: {was}, now {now}; "
                    "choose another folder, or remove this one"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time in one folder. The lock ends with the process, however it ends."""
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise BuildError(f"out={self.out}: another envs-build is at work there") from error
            self._read()  # the other one may have gone on, or ended, in the meantime
            yield

    def save(self, part: int, rows: Sequence[Row]) -> None:
        """Write the rows kept since the last call as one shard, then the state."""
        self.work.mkdir(parents=True, exist_ok=True)
        if rows:
            import pyarrow.parquet as parquet

            path = self._shard(part, self.records[part].shards)
            parquet.write_table(_table(rows), path.with_suffix(".tmp"), compression="zstd")
            os.replace(path.with_suffix(".tmp"), path)
            self.records[part].shards += 1
        state = {"format": FORMAT, "plan": self.plan.to_json(), "records": [asdict(r) for r in self.records]}
        write_atomic(self.work / STATE, json.dumps(state, indent=1))

    def keys(self, part: int) -> set[tuple[str, str]]:
        """(family, key) of the rows that a part has on disk."""
        import pyarrow.parquet as parquet

        found: set[tuple[str, str]] = set()
        for number in range(self.records[part].shards):
            table = parquet.read_table(self._shard(part, number), columns=["family", "key"])
            found.update(zip(table["family"].to_pylist(), table["key"].to_pylist(), strict=True))
        return found

    def finish(self, extra: Mapping[str, Any], card: str) -> None:
        """Make the data set of all shards, then write ``build.json`` and the card, and remove the shards."""
        import datasets
        import pyarrow
        import pyarrow.parquet as parquet

        splits: dict[str, list[Any]] = {}
        for number, part in enumerate(self.plan.parts):
            shards = [parquet.read_table(self._shard(number, i)) for i in range(self.records[number].shards)]
            splits.setdefault(part.split, []).extend(shards)
        tables = {split: pyarrow.concat_tables(shards) for split, shards in splits.items() if shards}
        if not tables:
            raise BuildError("no task was kept at all: " + "; ".join(r.ran_out for r in self.records))
        target = self.work / "dataset"
        shutil.rmtree(target, ignore_errors=True)
        datasets.disable_progress_bars()
        datasets.DatasetDict({s: datasets.Dataset(t) for s, t in tables.items()}).save_to_disk(str(target))
        for path in sorted(target.iterdir()):
            if (self.out / path.name).is_dir():  # of a build that was killed right here
                shutil.rmtree(self.out / path.name)
            os.replace(path, self.out / path.name)
        write_atomic(self.out / CARD, card)
        records = [asdict(record) for record in self.records]
        about = {"format": FORMAT, "plan": self.plan.to_json(), "records": records, **extra}
        write_atomic(self.out / BUILD, json.dumps(about, indent=1, ensure_ascii=False))
        if not any(record.timed for record in self.records):
            shutil.rmtree(self.work)
        self.finished = True

    def _shard(self, part: int, number: int) -> Path:
        return self.work / f"p{part}-{number:05d}.parquet"


def write_atomic(path: Path, text: str) -> None:
    """Readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _table(rows: Sequence[Row]) -> Any:
    import pyarrow

    columns = {name: pyarrow.array([r[name] for r in rows], pyarrow.string()) for name in TEXT_COLUMNS}
    columns |= {name: pyarrow.array([r[name] for r in rows], pyarrow.int64()) for name in NUMBER_COLUMNS}
    return pyarrow.table(columns)


def _difference(place: str, was: Any, now: Any) -> tuple[str, str, str]:
    """Where two plans differ first, and how, in a few words: ``sources.0.settings.tiers``."""
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        was, now = ({str(n): value for n, value in enumerate(values)} for values in (was, now))
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted(was.keys() | now.keys()):
            if was.get(key) != now.get(key):
                return _difference(f"{place}.{key}", was.get(key), now.get(key))
    one, other = (shortened if len(shortened := repr(value)) <= 80 else f"{shortened[:80]} …" for value in (was, now))
    return place, one, other
