"""The rows of a user's data set, each value as it is written: files, folders of ``datasets``, data sets of the hub.

    source = open_rows("questions.jsonl", "train")
    for place, row in source.scan():        # ("line 1", {"prompt": ..., "answer": ...}), or ("line 2", BadRowError)
        ...
    source.row(0)                           # any one of them again, after the scan

==========================  ==========================================================================================
JSON lines, JSON list       UTF-8, with or without a byte order mark; empty lines are no rows; numbers keep their type
CSV                         a header, then text: ``007``, ``NA`` and ``1e3`` stay what they are, an empty cell is ""
Parquet, ``save_to_disk``   dates become ISO 8601 text and decimals text, since a task holds JSON values only
``owner/name``              ``datasets.load_dataset``, with ``subset`` and ``revision``
==========================  ==========================================================================================

A path is exactly that file, never a pattern. Of a text file the places of its rows are kept and rows are read when they
are asked for; a Parquet file is held in memory, a folder is memory-mapped. A source can be pickled: where it arrives it
is opened again, and refused when it holds something else than before. What a row lacks of ``columns`` is None.
"""

from __future__ import annotations

import re
from pathlib import Path

from envs.row_source.source import BadRowError, Row, RowSource
from envs.row_source.tables import FolderRows, HubRows, ParquetRows
from envs.row_source.text_files import CsvRows, JsonRows
from envs.taskset import Split

__all__ = ["BadRowError", "Row", "RowSource", "open_rows"]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def open_rows(path: str | Path, split: Split, subset: str | None = None, revision: str | None = None) -> RowSource:
    """The rows of ``path`` that ``split`` may use: those of its own split where the data set has several.

    Raises ValueError that says what is not there or cannot be read.
    """
    name, file = str(path), Path(path)
    if not name:
        raise ValueError("path is missing: give a data set, env.path=questions.jsonl")
    for key, value in (("subset", subset), ("revision", revision)):
        if value is not None and file.exists():
            raise ValueError(f"{key}={value}: is for data sets of the hub, {name} is a file or folder")
    suffix = file.suffix.lower()
    if file.is_dir():
        return FolderRows(name, split)
    if not file.exists():
        if suffix in SUFFIXES or not _HUB_ID.fullmatch(name):
            raise ValueError(f"path={name!r}: there is no such file or folder")
        return HubRows(name, split, subset, revision)
    if suffix not in SUFFIXES:
        raise ValueError(f"path={name}: cannot read {suffix or 'it'}; use {', '.join(SUFFIXES)} or a folder")
    kinds: dict[str, type[RowSource]] = {".csv": CsvRows, ".parquet": ParquetRows}
    return kinds.get(suffix, JsonRows)(name, split)
