"""The reader of data sets: every value as it is written, every place named, in every form."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.row_source import BadRowError, RowSource, open_rows, tables

BOM = b"\xef\xbb\xbf"
texts = st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
in_one_folder = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, split: Any = "train") -> tuple[RowSource, list[tuple[str, Any]]]:
    source = open_rows(path, split)
    return source, list(source.scan())


def same(one: Any, two: Any) -> bool:
    """Equal, types and spelling of numbers included."""
    return json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)


def check_rows(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    """The places; the rows come from the scan, by number, and from a copy in another process's stead."""
    source, found = read(path)
    assert same([row for _, row in found], rows)
    columns = dict.fromkeys(key for row in rows for key in row)
    assert source.columns == tuple(columns) or not rows
    for reader in (source, pickle.loads(pickle.dumps(source))):
        assert len(reader) == len(rows)
        for number in reversed(range(len(rows))):
            assert same(reader.row(number), columns | dict.fromkeys(columns) | rows[number])
    return [place for place, _ in found]


@in_one_folder
@given(st.lists(st.dictionaries(texts, values, max_size=4), max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_json_lines_there_and_back(
    tmp_path: Path, rows: list[dict[str, Any]], ascii_only: bool, bom: bool, windows: bool
) -> None:
    end = "\r\n" if windows else "\n"
    lines = [json.dumps(row, ensure_ascii=ascii_only) + end * (1 + number % 2) for number, row in enumerate(rows)]
    (tmp_path / "a.jsonl").write_bytes(BOM * bom + "".join(lines).rstrip("\r\n").encode())
    places = check_rows(tmp_path / "a.jsonl", rows)
    assert places == [f"line {1 + number + number // 2}" for number in range(len(rows))]


@in_one_folder
@given(st.lists(st.dictionaries(texts, values, max_size=4), max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_a_json_list_there_and_back(
    tmp_path: Path, rows: list[dict[str, Any]], ascii_only: bool, bom: bool, pretty: bool
) -> None:
    text = json.dumps(rows, ensure_ascii=ascii_only, indent=1 if pretty else None)
    (tmp_path / "a.json").write_bytes(BOM * bom + b" " * pretty + text.encode() + b"\n" * pretty)
    assert check_rows(tmp_path / "a.json", rows) == [f"row {number + 1}" for number in range(len(rows))]


@in_one_folder
@given(
    header=st.lists(st.text('abcdeé," \n', min_size=1, max_size=4), min_size=1, max_size=4, unique=True),
    data=st.data(),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    quoted=st.booleans(),
)
def test_csv_there_and_back(
    tmp_path: Path, header: list[str], data: st.DataObject, end: str, bom: bool, quoted: bool
) -> None:
    # csv.writer does not quote a lone carriage return: what it writes then reads as the end of a line
    cells = texts if quoted else texts.filter(lambda text: "\r" not in text)
    rows = data.draw(st.lists(st.lists(cells, min_size=len(header), max_size=len(header)), max_size=5))
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL).writerows(
        [header, *rows]
    )
    (tmp_path / "a.csv").write_bytes(BOM * bom + out.getvalue().encode())
    check_rows(tmp_path / "a.csv", [dict(zip(header, row, strict=True)) for row in rows])


def test_csv_cells_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('q,answer\na,007\n\nb,NA\nc,1e3\nd,True\n"e\n1",\nf,None')
    source, found = read(tmp_path / "a.csv")
    assert [row["answer"] for _, row in found] == ["007", "NA", "1e3", "True", "", "None"]
    assert [place for place, _ in found] == ["line 2", "line 4", "line 5", "line 6", "line 7", "line 9"]
    assert source.row(4) == {"q": "e\n1", "answer": ""}


def test_json_values_keep_their_types(tmp_path: Path) -> None:
    answers = ["2024-05-01", "2024-05-01T10:00:00", 42, "forty", 1.5, 2**70, None, [1, "a"], {"a": None}, True]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"answer": a}) + "\n" for a in answers))
    assert check_rows(tmp_path / "a.jsonl", [{"answer": a} for a in answers])


def test_bad_rows_are_named_and_the_others_read(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b"{", b"[1]", b'{"a": "\xe9"}', b'{"a": "\\ud800"}', b'{"a": "\\ud83d\\ude00"}', b'{"b": 2}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    source, found = read(tmp_path / "a.jsonl")
    told = {place: str(row) for place, row in found if isinstance(row, BadRowError)}
    assert list(told) == ["line 2", "line 3", "line 4", "line 5"]
    for (_, said), word in zip(told.items(), ("is no JSON", "a list", "not UTF-8 .*0xe9", "surrogate"), strict=True):
        assert re.search(word, said)
    assert source.row(5) == {"a": "😀", "b": None}
    assert source.row(6) == {"a": None, "b": 2}

    (tmp_path / "a.csv").write_bytes(b"q,a\n1,2\n1\n1,2,3\n\xe9,2\n3,4\n")
    found = read(tmp_path / "a.csv")[1]
    assert [str(row) for _, row in found if isinstance(row, BadRowError)] == [
        "has 1 cells, the header has 2",
        "has 3 cells, the header has 2",
        "is not UTF-8 text (byte 0xe9 at 0): save the file as UTF-8",
    ]
    (tmp_path / "b.json").write_text('[{"a": 1}, 7, {"a": "é"}]')
    assert [type(row).__name__ for _, row in read(tmp_path / "b.json")[1]] == ["dict", "BadRowError", "dict"]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", b'{"rows":\n [{"a": 1}]}', r"holds one object \(rows\); wanted a list of objects"),
        ("a.json", b'[{"a": 1}, {"b": 2}', "is no JSON list: Expecting ','"),
        ("a.json", b'[{"a": 1},]', "is no JSON list"),
        ("a.json", b'[{"a": 1}] [', "is no JSON list: Extra data"),
        ("a.json", b'[{"a": "\xe9"}]', "is not UTF-8 text"),
        ("a.csv", b'q,a\n1,2\n"1"2,3\n', "a.csv, line 3: is no CSV"),
        ("a.csv", b'q,a\n"1,2\n3,4\n', "a.csv, line 2: is no CSV"),
        ("a.csv", b"q,a,q\n", "the column 'q' more than once"),
        ("a.csv", b"\xe9,a\n", "a.csv, line 1: is not UTF-8"),
        ("a.parquet", b"PAR1", "is no Parquet file"),
        ("a.xlsx", b"", r"cannot read \.xlsx; use \.jsonl, \.json, \.csv, \.parquet or a folder"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=why):
        read(tmp_path / name)


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="no folder that save_to_disk of datasets wrote"):
        read(tmp_path / "folder")
    for name in ("", str(tmp_path / "none.jsonl"), "data/none.jsonl", "none", "a/b/c"):
        with pytest.raises(ValueError, match="path"):
            open_rows(name, "train")
    (tmp_path / "a.csv").write_text("a\n")
    with pytest.raises(ValueError, match=r"subset=x: is for data sets of the hub"):
        open_rows(tmp_path / "a.csv", "train", subset="x")


def test_tables_hold_json_values(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    row = {
        "day": datetime.date(2024, 5, 1), "at": datetime.datetime(2024, 5, 1, 10), "price": decimal.Decimal("1.50"),
        "whole": 2**62, "share": 0.5, "none": None, "inner": {"days": [datetime.date(2024, 5, 2)]},
    }  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    source, found = read(tmp_path / "a.parquet")
    plain = row | {"day": "2024-05-01", "at": "2024-05-01T10:00:00", "price": "1.50", "inner": {"days": ["2024-05-02"]}}
    assert same(source.row(0), plain)
    assert found == [("row 1", source.row(0))]
    parquet.write_table(pyarrow.Table.from_pylist([{"a": {"b": [b"\x00"]}}]), tmp_path / "b.parquet")
    ((place, bad),) = read(tmp_path / "b.parquet")[1]
    assert isinstance(bad, BadRowError)
    assert (place, str(bad)[:27]) == ("row 1", "column a.b: holds a bytes, ")


@pytest.mark.parametrize(
    "name",
    ["two words/my rows", "données/été", "数据/行", "set [v2]/rows", "set/rows[1]", "what?/rows", "a*b/rows", "run#3/r",
     "a::b/rows", "lr=1e-5,x/rows", "set{1,2}/rows", ".hidden/rows", "100%/rows", "a/b/rows.v2", "train/rows"],
)  # fmt: skip
def test_any_path_that_the_file_system_allows(tmp_path: Path, name: str) -> None:
    import datasets

    row = {"a": "x"}
    table = datasets.Dataset.from_list([row])
    for suffix in (".jsonl", ".JSONL", ".json", ".csv", ".parquet", ""):
        path = tmp_path / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        match suffix.lower():
            case ".parquet":
                with path.open("wb") as file:
                    table.to_parquet(file)
            case ".csv":
                path.write_text("a\nx\n")
            case "":
                table.save_to_disk(str(tmp_path / "saved"))
                (tmp_path / "saved").rename(path)
            case _:
                path.write_text(json.dumps(row))
        assert read(path)[1][0][1] == row


@pytest.mark.parametrize(
    ("name", "neighbour"),
    [("rows[1].jsonl", "rows1.jsonl"), ("rows*.csv", "rows-old.csv"), ("what?/a.jsonl", "whatX/a.jsonl")],
)
def test_never_a_neighbour(tmp_path: Path, name: str, neighbour: str) -> None:
    for file, value in ((name, "right"), (neighbour, "neighbour")):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"a\n{value}\n" if name.endswith("csv") else json.dumps({"a": value}))
    assert [row for _, row in read(tmp_path / name)[1]] == [{"a": "right"}]


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    source, _ = read(path)
    stored = pickle.dumps(source)
    os.utime(path, (1, 1))  # touched: the same content
    assert source.row(1) == {"a": 2}
    path.write_text('{"b": 1}\n{"a": 2}\n')
    for reader in (source, pickle.loads(stored)):
        with pytest.raises(ValueError, match=r"a\.jsonl has changed since it was opened"):
            reader.row(1)


def test_a_folder_gives_the_rows_of_the_split(tmp_path: Path) -> None:
    import datasets

    parts = {name: datasets.Dataset.from_list([{"a": name}]) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    datasets.DatasetDict(train=parts["train"]).save_to_disk(str(tmp_path / "one"))
    for split, value in (("train", "train"), ("heldout", "test")):
        source, found = read(tmp_path / "both", split)
        assert (source.own_split, [row for _, row in found]) == (True, [{"a": value}])
        source, found = read(tmp_path / "one", split)
        assert (source.own_split, [row for _, row in found]) == (False, [{"a": "train"}])
    datasets.DatasetDict(a=parts["train"], b=parts["test"]).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="has a, b; wanted heldout or test or validation"):
        read(tmp_path / "other", "heldout")


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's side is played: its library gives what it would give, or says that there is no network."""
    import datasets

    asked: list[Any] = []

    def load(name: str, subset: str | None, revision: str | None) -> Any:
        asked.append((name, subset, revision))
        if subset is None:
            raise ConnectionError("Couldn't reach\n 'openai/gsm8k' on the Hub")
        return datasets.DatasetDict(
            train=datasets.Dataset.from_list([{"a": 1}]), test=datasets.Dataset.from_list([{"a": 2}])
        )

    monkeypatch.setattr(tables, "_hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_rows("openai/gsm8k", "heldout", "main", "v1")
    assert list(source.scan()) == [("row 1", {"a": 2})]
    assert (asked[0], source.own_split, len(source.digest)) == (("openai/gsm8k", "main", "v1"), True, 64)
    with pytest.raises(ValueError) as error:
        list(open_rows("openai/gsm8k", "train").scan())
    assert str(error.value) == (
        "path='openai/gsm8k': no such file or folder, and not a data set that could be loaded from the hub: "
        "ConnectionError: Couldn't reach 'openai/gsm8k' on the Hub"
    )


def test_without_a_network_it_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One short question instead of the library's own half minute; what an earlier run left in its cache is used."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    with caplog.at_level("DEBUG"), pytest.raises(ValueError) as error:
        list(open_rows("nobody/nothing", "train").scan())
    assert str(error.value) == (
        "path='nobody/nothing': no such file or folder, and the hub cannot be reached to fetch a data set of that "
        "name, nor has an earlier run left one here"
    )
    assert "Retrying" not in caplog.text
    assert before == (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)  # changed for that one call

    left = tmp_path / "me___sums" / "default" / "0.0.0" / "abc"
    left.mkdir(parents=True)
    rows = datasets.Dataset.from_list([{"a": 1}, {"a": 2}])
    with datasets.arrow_writer.ArrowWriter(path=str(left / "sums-train.arrow"), features=rows.features) as writer:
        writer.write_table(rows.data.table)
        writer.finalize()
    info = datasets.DatasetInfo(features=rows.features, builder_name="json", dataset_name="sums", config_name="default")
    info.version = "0.0.0"
    info.splits = datasets.SplitDict.from_split_dict(
        [datasets.SplitInfo("train", num_examples=2, dataset_name="sums")], "sums"
    )
    info.write_to_directory(str(left))
    assert list(open_rows("me/sums", "train").scan()) == [("row 1", {"a": 1}), ("row 2", {"a": 2})]


def test_a_home_that_cannot_be_written_is_no_hindrance(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.jsonl").write_text('{"a": 1}')
    parquet.write_table(pyarrow.Table.from_pylist([{"a": 1}]), tmp_path / "a.parquet")
    code = """
import sys
from envs.row_source import open_rows
for path in sys.argv[1:]:
    print(list(open_rows(path, "train").scan()))
"""
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HOME", "XDG_CACHE_HOME")} | {"HOME": "/proc/none"}
    command = [sys.executable, "-c", code, str(tmp_path / "a.jsonl"), str(tmp_path / "a.parquet")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["[('line 1', {'a': 1})]", "[('row 1', {'a': 1})]"], done.stderr


def test_a_long_file_costs_places_not_rows(tmp_path: Path) -> None:
    """Opened in a time that goes with that of parsing its lines, and pickled without its rows."""
    path, row = tmp_path / "a.jsonl", json.dumps({"prompt": "What is it? " * 10, "answer": "42"})
    path.write_text(f"{row}\n" * 20_000)
    started = time.process_time()
    for line in path.read_text().splitlines():
        json.loads(line)
    parsing = time.process_time() - started
    started = time.process_time()
    source, _ = read(path)
    assert (
        time.process_time() - started < 100 * parsing
    )  # rows parsed and checked one by one; a collection may fall into it
    assert source.row(19_999)["answer"] == "42"
    assert len(pickle.dumps(source)) < 1000
