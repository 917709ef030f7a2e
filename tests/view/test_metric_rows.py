"""metrics.jsonl in pieces: together they are the file, whatever the size of a piece."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.view.metric_rows import read_piece


def read_all(path: Path, size: int) -> list[dict[str, Any]]:
    rows, cursor, more = [], "", True
    while more:
        piece = read_piece(path, cursor, size=size)
        assert piece.fresh == (cursor == "")
        rows += piece.rows
        cursor, more = piece.cursor, piece.more
    return rows


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows") / "metrics.jsonl"


@settings(max_examples=50)
@given(values=st.lists(st.text(max_size=30), max_size=20), size=st.integers(1, 200))
def test_pieces_make_the_whole(path: Path, values: list[str], size: int) -> None:
    rows = [{"step": i, "value": value} for i, value in enumerate(values)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_all(path, size) == rows


def test_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_piece(path) == read_piece(path, "")
    assert read_piece(path).cursor == ""
    path.write_text('{"step": 1}\n{"step": ')
    first = read_piece(path)
    assert ([row["step"] for row in first.rows], first.fresh) == ([1], True)
    assert not read_piece(path, first.cursor).rows  # half a line is none
    with path.open("a") as file:
        file.write('2, "x": NaN}\nnonsense\n[]\n{"step": 3}\n')
    second = read_piece(path, first.cursor)
    assert second.rows == [{"step": 2, "x": None}, {"step": 3}]
    assert (second.fresh, second.more) == (False, False)


def test_another_file_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    cursor = read_piece(path).cursor
    other = tmp_path / "other"
    other.write_text('{"step": 7}\n{"step": 8}\n{"step": 9}\n')
    other.replace(path)
    assert [row["step"] for row in read_piece(path, cursor).rows] == [7, 8, 9]
    for odd in ("x", "-", "1-", f"{cursor}9", "nan-nan"):
        assert read_piece(path, odd).fresh
    path.unlink()
    assert read_piece(path, cursor).fresh  # the rows it gave count no more
