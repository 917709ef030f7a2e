"""Rows of Arrow tables: Parquet files, folders of ``datasets.save_to_disk``, data sets of the hub."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from envs.row_source.source import BadRowError, Placed, Row, RowSource
from envs.taskset import Split

# What a data set's own held-out split may be called, when it has several
HELDOUT_NAMES = ("heldout", "test", "validation")
_HUB_ANSWERS_IN_S = 5.0


class _ArrowRows(RowSource):
    """Rows of a ``datasets.Dataset``, which is ``_opened``."""

    absent_nulls = True

    @abstractmethod
    def _load(self) -> Any:
        """The data set, with ``digest`` and ``own_split`` set."""

    def __len__(self) -> int:
        return len(self.opened())

    def row(self, number: int) -> Row:
        row: Row = _plain(self.opened()[number])
        return row

    def _scan(self) -> Iterator[Placed]:
        found = self._load()
        self.columns = tuple(found.column_names)
        number = 0
        for batch in found.iter(1000):
            for values in zip(*batch.values(), strict=True):
                number += 1
                try:
                    row: Row | BadRowError = _plain(dict(zip(batch, values, strict=True)))
                except BadRowError as error:
                    row = error
                yield f"row {number}", row
        self._opened = found

    def _of_split(self, names: list[str]) -> str:
        """Which of the data set's own splits is meant."""
        found = [name for name in (("train",) if self.split == "train" else HELDOUT_NAMES) if name in names]
        self.own_split = len(names) > 1 or (self.split != "train" and bool(found))
        if found:
            return found[0]
        if names == ["train"]:
            return "train"
        wanted = "train" if self.split == "train" else " or ".join(HELDOUT_NAMES)
        raise ValueError(f"split={self.split}: {self.name} has {', '.join(names)}; wanted {wanted}")


class ParquetRows(_ArrowRows):
    def _load(self) -> Any:
        import pyarrow
        from pyarrow import parquet

        with self.path.open("rb") as file:  # a path would be read as a URI or a pattern
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
            try:
                table = parquet.ParquetFile(file).read()
            except pyarrow.ArrowException as error:
                raise ValueError(f"{self.name} is no Parquet file that can be read: {error}") from error
        return _dataset(table)


class FolderRows(_ArrowRows):
    """What ``save_to_disk`` wrote: of a ``Dataset``, or of a ``DatasetDict`` the split's."""

    def _load(self) -> Any:
        import pyarrow

        folder = self.path
        try:
            if (folder / "dataset_dict.json").is_file():
                splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
                folder = folder / self._of_split(list(splits))
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            files = [folder / entry["filename"] for entry in state["_data_files"]]
            tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all() for file in files]
        except (OSError, KeyError, json.JSONDecodeError, pyarrow.ArrowException) as error:
            raise ValueError(
                f"{self.name} is no folder that save_to_disk of datasets wrote ({type(error).__name__}: {error})"
            ) from error
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        self.digest = digest.hexdigest()
        return _dataset(pyarrow.concat_tables(tables))


class HubRows(_ArrowRows):
    """A data set of the hub, or one that an earlier run left in the cache of ``datasets``."""

    def __init__(self, name: str, split: Split, subset: str | None, revision: str | None) -> None:
        super().__init__(name, split)
        self.subset, self.revision = subset, revision

    def _load(self) -> Any:
        import datasets

        reached = _hub_answers()
        try:
            with nullcontext() if reached else _offline():
                loaded = datasets.load_dataset(self.name, self.subset, revision=self.revision)
        except Exception as error:  # the hub's, the network's, a data set's own: there is no type for all of them
            said = " ".join(str(error).split())
            why = f"not a data set that could be loaded from the hub: {type(error).__name__}: {said[:300]}"
            if not reached:
                why = "the hub cannot be reached to fetch a data set of that name, nor has an earlier run left one here"
            raise ValueError(f"path={self.name!r}: no such file or folder, and {why}") from error
        found = loaded[self._of_split(list(loaded))]
        digest = hashlib.sha256()
        for batch in found.data.table.to_batches():
            digest.update(batch.serialize())
        self.digest = digest.hexdigest()
        return found


def _hub_answers() -> bool:
    """Whether the hub can be reached. Asked once: ``datasets`` itself tries for half a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_ANSWERS_IN_S)
    except Exception:  # the HTTP library's, the network's, a proxy's, or HF_HUB_OFFLINE is set
        return False
    return True


@contextmanager
def _offline() -> Iterator[None]:
    """What HF_HUB_OFFLINE=1 does, which is read when the libraries are imported: the cache alone, at once."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _dataset(table: Any) -> Any:
    """The table with the types that ``datasets`` noted in it, say JSON values that are stored as text."""
    import datasets

    return datasets.Dataset(datasets.table.InMemoryTable(table))


def _plain(value: Any) -> Any:
    """``value`` as JSON values. Raises BadRowError that names the column for what has no such form."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, dict):
        plain = {}
        for key, inner in value.items():
            try:
                plain[key] = _plain(inner)
            except BadRowError as error:
                raise BadRowError(f"column {key}: {error}".replace(": column ", ".", 1)) from error
        return plain
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise BadRowError(f"holds a {type(value).__name__}, which is no JSON value: leave the column out of the file")
