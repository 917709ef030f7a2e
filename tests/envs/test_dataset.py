"""A reward function over a data set: formats, splits, rewards sync and async, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.check import check_taskset
from envs.curriculum import CurriculumTaskset
from envs.dataset import DatasetTaskset
from envs.episode import play_episode
from envs.mixture import MixTaskset
from envs.types import Message

ROWS = [{"prompt": f"{i} + {i} = ?", "answer": str(2 * i), "level": 1 + i % 2, "note": {"i": i}} for i in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import datasets

    path = tmp_path_factory.mktemp("dataset")
    (path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (path / "a.json").write_text(json.dumps(ROWS))
    table = datasets.Dataset.from_list(ROWS)
    table.to_parquet(str(path / "a.parquet"))
    table.to_csv(str(path / "a.csv"))
    table.save_to_disk(str(path / "one"))
    splits = {"train": table.select(range(50)), "test": table.select(range(50, 60))}
    datasets.DatasetDict(splits).save_to_disk(str(path / "two"))
    return path


def answered(taskset: DatasetTaskset, index: int, text: str) -> dict[str, float]:
    task = taskset.task(index)
    return play_episode(task, taskset.environment(task), lambda history: Message("assistant", text))[1]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv", "one"])
def test_every_format_gives_the_same_questions(folder: Path, name: str) -> None:
    train, heldout = (DatasetTaskset(split, path=folder / name) for split in ("train", "heldout"))  # type: ignore[arg-type]
    texts = [[t.task(i).prompt[-1].content for i in range(len(t))] for t in (train, heldout)]
    assert sorted(texts[0] + texts[1]) == sorted(row["prompt"] for row in ROWS)
    assert 5 <= len(heldout) <= 20  # one in five of 60
    reference = DatasetTaskset("heldout", path=folder / "a.jsonl")
    assert [heldout.task(i).metadata["key"] for i in range(5)] == [reference.task(i).metadata["key"] for i in range(5)]
    assert {t.task(i).metadata["level"] for t in (train,) for i in range(9)} == {1, 2}


def test_own_splits_and_split_column(folder: Path, tmp_path: Path) -> None:
    assert len(DatasetTaskset("train", path=folder / "two")) == 50
    heldout = DatasetTaskset("heldout", path=folder / "two")
    assert [heldout.task(i).answer for i in range(10)] == [str(2 * i) for i in range(50, 60)]
    rows = [{"prompt": str(i), "answer": "1", "part": "heldout" if i > 3 else "train"} for i in range(6)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = [DatasetTaskset(s, path=tmp_path / "b.jsonl", split_column="part") for s in ("train", "heldout")]  # type: ignore[arg-type]
    assert [len(part) for part in parts] == [4, 2]


def test_without_a_reward_the_answer_must_be_equal(folder: Path) -> None:
    taskset = DatasetTaskset(path=folder / "a.jsonl")
    right = taskset.task(0).answer
    assert answered(taskset, 0, f' "{right}". ') == {"outcome": 1.0}
    assert answered(taskset, 0, f"{right}0") == {"outcome": 0.0}
    shown = taskset.environment(taskset.task(0)).oracle(())
    assert shown == Message(
        "assistant", right, reasoning=""
    )  # so that a cold start can show it to a policy that thinks
    findings = check_taskset(lambda split: DatasetTaskset(split, path=folder / "a.jsonl"), tasks=5)
    assert [f for f in findings if f.status == "FAILED"] == []


def test_rewards_sync_and_async(folder: Path) -> None:
    taskset = DatasetTaskset(path=folder / "a.jsonl", reward="factory_tasksets.reward", system="Add.")
    right = taskset.task(0).answer
    assert answered(taskset, 0, f"it is {right}") == {"outcome": 1.0, "short": float(len(f"it is {right}") < 10)}
    assert answered(taskset, 0, "I cannot say") == {"outcome": 0.0, "short": 0.0}
    assert taskset.task(0).prompt[0] == Message("system", "Add.")
    copy = pickle.loads(pickle.dumps(taskset))
    assert copy.task(1) == taskset.task(1)
    assert answered(DatasetTaskset(path=folder / "a.jsonl", reward="factory_tasksets.half"), 0, "x") == {"outcome": 0.5}
    with pytest.raises(ValueError, match=r"reward seven gave outcome=7\.0: must be between 0 and 1"):
        answered(DatasetTaskset(path=folder / "a.jsonl", reward="factory_tasksets.seven"), 0, "x")


def test_prompts_of_several_messages(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows = [{"messages": prompt, "answer": "1", "split": split} for split in ("train", "heldout")]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    taskset = DatasetTaskset(path=tmp_path / "c.jsonl", prompt_column="messages", split_column="split")
    assert taskset.task(0).prompt == (Message("system", "s"), Message("user", "u"))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"answer": "1", "split": "train"} | row) + "\n" for row in rows))
    return path


def numbered(path: Path, count: int, word: str = "Count to") -> Path:
    return write(path, [{"prompt": f"{word} {i}?", "answer": str(i)} for i in range(count)])


def opened(path: Path, **settings: Any) -> DatasetTaskset:
    return DatasetTaskset(**{"path": path, "split_column": "split"} | settings)


CALL = {"name": "count", "arguments": {"item": "apples"}}
PLAIN = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello?"}]
SHOWN = [
    {"role": "user", "content": "How many apples?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "user", "content": "And bolts?"},
]
OTHER = [
    {"role": "user", "content": "Where are the forks?"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "find", "arguments": {"what": "forks", "at": None}}]},
    {"role": "tool", "content": "here"},
    {"role": "user", "content": "Thanks. And dishes?"},
]
WIRE = {"id": "c1", "type": "function", "function": {"name": "count", "arguments": json.dumps(CALL["arguments"])}}
OPENAI = [
    SHOWN[0],
    {"role": "assistant", "content": None, "tool_calls": [WIRE]},
    {"role": "tool", "content": "3", "tool_call_id": "c1"},
    SHOWN[3],
]
NAMED = [PLAIN[0], {"role": "user", "content": "Hello?", "name": "sam", "tool_calls": None}]
PARTS = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in PLAIN]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "folder"])
@pytest.mark.parametrize(
    ("prompts", "meant"),
    [
        ([PLAIN, PLAIN], [PLAIN, PLAIN]),
        ([PLAIN, SHOWN], [PLAIN, SHOWN]),
        ([SHOWN, OTHER], [SHOWN, OTHER]),
        ([OPENAI, OPENAI], [SHOWN, SHOWN]),
        ([NAMED, NAMED], [PLAIN, PLAIN]),
        ([PARTS, PARTS], [PLAIN, PLAIN]),
    ],
)
def test_chat_prompts_in_every_form(tmp_path: Path, form: str, prompts: list[Any], meant: list[Any]) -> None:
    import datasets

    rows = [{"prompt": prompt, "answer": "1", "split": "train"} for prompt in prompts]
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        write(path, rows)
    elif form == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    taskset = opened(path)
    told = [[message.to_json() for message in taskset.task(i).prompt] for i in range(2)]
    if form != "jsonl":  # where all rows share one type, a null may be an argument that is not there
        absent = {"what": "forks"}
        meant = json.loads(
            json.dumps(meant).replace(json.dumps(OTHER[1]["tool_calls"][0]["arguments"]), json.dumps(absent))
        )  # type: ignore[index]
    assert told == meant
    keys = [DatasetTaskset("train", path=write(tmp_path / "b.jsonl", [{"prompt": prompt}]), split_column="split")
            .task(0).metadata["key"] for prompt in meant]  # fmt: skip
    if prompts != [SHOWN, OTHER]:
        assert [taskset.task(i).metadata["key"] for i in range(2)] == keys  # so a form does not change the split


def test_levels(tmp_path: Path) -> None:
    levels = [3, "Level 5", "2", 4.0, "hard", None, True, 0, [7], float("nan")]
    taskset = opened(write(tmp_path / "a.jsonl", [{"prompt": f"{i}?", "level": v} for i, v in enumerate(levels)]))
    assert [taskset.task(i).metadata["level"] for i in range(10)] == [3, 5, 2, 4, 1, 1, 1, 1, 1, 1]
    assert taskset.task(1).metadata["row"]["level"] == "Level 5"


BAD = [
    ({"prompt": None}, "column prompt: is null, wanted a text or a list of messages"),
    ({"prompt": " "}, "column prompt: is empty"),
    ({"prompt": 7}, "column prompt: is 7, wanted a text or a list"),
    ({"prompt": []}, "column prompt: has no message"),
    ({"prompt": [{"role": "robot", "content": "?"}]}, "column prompt: message 0 has the role 'robot'"),
    ({"prompt": [{"role": "assistant", "content": "?"}]}, "column prompt: ends with a message of the role 'assistant'"),
    ({"prompt": "?", "answer": None}, "column answer: is null, and the reward exact needs a right answer"),
    ({"prompt": "?", "split": "test"}, "column split: is 'test', must be train or heldout"),
]


@pytest.mark.parametrize(("row", "why"), BAD)
def test_a_bad_row_is_refused_at_the_start(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "Good?"}, row])
    with pytest.raises(ValueError) as error:
        opened(path)
    assert str(error.value).startswith(f"{path}, line 2: {why}")
    assert "on_bad_row=skip" in str(error.value)
    taskset = opened(path, on_bad_row="skip")
    assert (len(taskset), taskset.metrics()) == (1, {"data/skipped_rows": 1.0})


def test_skipped_rows_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": f"{i}?" if i % 3 else None} for i in range(60)])
    with path.open("ab") as file:
        file.write(b"{\n\xff\n")
    with pytest.raises(ValueError, match=r"line 1: column prompt: is null.* \(and 21 more of 62 rows\)"):
        opened(path)
    taskset = opened(path, on_bad_row="skip")
    (said,) = caplog.messages
    assert said.startswith(f"{path}: 22 of 62 rows are skipped: line 1: column prompt: is null")
    assert said.endswith("; and 12 more")
    assert taskset.metrics() == {"data/skipped_rows": 22.0}
    assert [taskset.task(i).id for i in range(3)] == [f"dataset/train/{n}" for n in (1, 2, 4)]
    assert opened(numbered(tmp_path / "b.jsonl", 3), on_bad_row="skip").metrics() == {}


def test_a_null_answer_is_for_a_reward_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "?", "answer": None}])
    assert opened(path, reward="factory_tasksets.half").task(0).answer is None


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_an_empty_file_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json is empty: it has no row"):
        DatasetTaskset(path=tmp_path / "a.json")


def test_unusual_files(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "Six times seven?", "answer": "42", "split": "train"}).encode()
    longest = json.dumps({"prompt": "x" * 3_000_000, "answer": "42", "split": "train"}).encode()
    for content in (
        row,
        b"\n" + row + b"\n\n",
        b"\xef\xbb\xbf" + row,
        row + b"\r\n" + row + b"\r\n",
        longest,
        row + b"\n" + row,
    ):
        (tmp_path / "a.jsonl").write_bytes(content)
        taskset = opened(tmp_path / "a.jsonl")
        tasks = [taskset.task(taskset.next_index()) for _ in range(5)]  # fewer rows than that: they come again
        assert {task.answer for task in tasks} == {"42"}
        assert len({task.id for task in tasks}) == len(taskset) == 1 + (b"\n{" in content.strip())


# -- order -----------------------------------------------------------------------------------


@given(size=st.integers(1, 12), seed=st.integers(0, 99), stop=st.integers(0, 40), shuffle=st.booleans())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_epochs_are_permutations_and_resume_anywhere(
    tmp_path: Path, size: int, seed: int, stop: int, shuffle: bool
) -> None:
    path = numbered(tmp_path / "a.jsonl", size)
    whole = opened(path, seed=seed, shuffle=shuffle)
    order = [whole.next_index() for _ in range(4 * size + stop)]
    for epoch in range(4):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert shuffle or order[: 2 * size] == [*range(size), *range(size)]
    before = opened(path, seed=seed, shuffle=shuffle)
    assert [before.next_index() for _ in range(stop)] == order[:stop]
    after = opened(path, seed=seed, shuffle=shuffle)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert [after.next_index() for _ in range(4 * size)] == order[stop:]


def test_orders_differ_by_epoch_and_by_seed_and_heldout_keeps_the_files(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", 30)
    passes = []
    for seed in (0, 1):
        taskset = opened(path, seed=seed)
        passes += [[taskset.next_index() for _ in range(30)] for _ in range(2)]
    assert len({tuple(order) for order in [*passes, list(range(30))]}) == 5
    heldout = DatasetTaskset("heldout", path=path)
    assert [heldout.next_index() for _ in range(2 * len(heldout))] == 2 * list(range(len(heldout)))
    rows = [heldout.task(i).metadata["row"]["answer"] for i in range(len(heldout))]
    assert [int(answer) for answer in rows] == sorted(int(answer) for answer in rows)


def test_iteration_is_in_the_order_of_the_epoch(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", 9)
    one, two = opened(path), opened(path)
    for _ in range(2):
        assert [task.id for task in one] == [two.task(two.next_index()).id for _ in range(9)]


# -- resumption ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "word", "why"),
    [
        (40, "Count to", "it had 100 rows, now it has 40"),
        (101, "Count to", "it had 100 rows, now it has 101"),
        (100, "Add one to", "100 rows as before, with other content"),
    ],
)
def test_other_data_is_no_resumption(tmp_path: Path, count: int, word: str, why: str) -> None:
    path = numbered(tmp_path / "a.jsonl", 100)
    first = opened(path)
    for _ in range(60):
        first.next_index()
    state = json.loads(json.dumps(first.state_dict()))
    inside = {
        "families": {"a": 1, "search": 1},
        "settings": {"a": {"of": "dataset", "path": path, "split_column": "split"}},
    }
    wrapped = [MixTaskset(**inside), CurriculumTaskset(of="mix", settings=inside)]  # type: ignore[arg-type]
    states = [state, *(taskset.state_dict() for taskset in wrapped)]
    opened(path).load_state_dict(state)
    numbered(path, count, word)
    now = [opened(path), MixTaskset(**inside), CurriculumTaskset(of="mix", settings=inside)]  # type: ignore[arg-type]
    for taskset, stored in zip(now, states, strict=True):
        with pytest.raises(ValueError) as error:
            taskset.load_state_dict(stored)
        assert str(error.value) == (
            f"{path} has changed since the checkpoint (split train: {why}): put back what it was, or start a new run"
        )


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ""])
def test_the_rows_are_in_the_fingerprint(suffix: str, tmp_path: Path) -> None:
    """A cached stage of the same file with other rows is another stage, whatever the file's form; its place is not."""
    import datasets

    def made(folder: str, answer: str) -> str:
        path = tmp_path / folder / f"a{suffix}"
        path.parent.mkdir()
        rows = datasets.Dataset.from_list([{"prompt": f"{i}?", "answer": answer, "split": "train"} for i in range(3)])
        write = {".jsonl": rows.to_json, ".csv": rows.to_csv, ".parquet": rows.to_parquet, "": rows.save_to_disk}
        write[suffix](str(path))
        return opened(path).fingerprint()

    assert made("one", "1") == made("same", "1") != made("other", "2")


def test_another_reward_is_no_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, module = numbered(tmp_path / "a.jsonl", 9), tmp_path / "own_reward.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    module.write_text("def right(answer, row):\n    return 1.0\n")
    first = opened(path, reward="own_reward.right")
    module.write_text("def right(answer, row):\n    return 0.0\n")
    state = first.state_dict()  # of what was loaded, not of what is on disk by now
    second = opened(path, reward="own_reward.right")
    assert first.fingerprint() != second.fingerprint()
    with pytest.raises(
        ValueError, match=r"own_reward\.py of reward own_reward\.right has changed since the checkpoint"
    ):
        second.load_state_dict(state)
    with pytest.raises(ValueError, match="written by an earlier version"):
        second.load_state_dict({key: value for key, value in state.items() if key != "inputs"})


# -- rewards ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [1, True, 0.5, Fraction(1, 2), np.float64(0.5), np.float32(0.5), np.int64(1), np.bool_(True),
     np.mean(np.array([1, 0], np.float32)), torch.tensor(0.5), torch.tensor([1])],
)  # fmt: skip
def test_numbers_of_any_kind_are_rewards(folder: Path, value: Any) -> None:
    taskset = DatasetTaskset(path=folder / "a.jsonl", reward=lambda answer, row: {"outcome": value, "more": value})
    scores = answered(taskset, 0, "x")
    assert scores == {"outcome": float(value), "more": float(value)}
    assert {type(score) for score in scores.values()} == {float}


@pytest.mark.parametrize("value", ["1", None, float("nan"), [1], np.array([1, 0]), torch.ones(2), 10**400])
def test_what_is_no_number_is_no_reward(folder: Path, value: Any) -> None:
    taskset = DatasetTaskset(path=folder / "a.jsonl", reward=lambda answer, row: value)
    with pytest.raises(ValueError, match=r"gave outcome=.*: must be a finite number"):
        answered(taskset, 0, "x")


# -- mixtures --------------------------------------------------------------------------------


def test_two_data_sets_and_a_family_in_a_mixture(tmp_path: Path) -> None:
    paths = {name: numbered(tmp_path / f"{name}.jsonl", count) for name, count in (("sums", 7), ("facts", 5))}
    members = {
        name: {"of": "dataset", "path": str(path), "split_column": "split", "on_bad_row": "skip"}
        for name, path in paths.items()
    }
    with paths["facts"].open("a") as file:
        file.write("{\n")

    def mixture(**settings: Any) -> MixTaskset:
        return MixTaskset(families={"sums": 2, "facts": 1, "search": 0.5}, settings=members, **settings)

    mix = mixture()
    tasks = [mix.task(mix.next_index()) for _ in range(700)]
    counts = Counter(task.family for task in tasks)
    assert {name: round(n / 100) for name, n in counts.items()} == {"sums": 4, "facts": 2, "search": 1}
    for name, size in (("sums", 7), ("facts", 5)):
        mine = [task.id for task in tasks if task.family == name]
        epochs = [tuple(mine[start : start + size]) for start in range(0, 20 * size, size)]
        assert {len(set(epoch)) for epoch in epochs} == {size}  # every row once an epoch,
        assert len(set(epochs)) > 10  # in ever another order
    again = mixture()
    for _ in range(123):
        again.next_index()
    resumed = mixture()
    resumed.load_state_dict(json.loads(json.dumps(again.state_dict())))
    assert [resumed.task(resumed.next_index()).id for _ in range(50)] == [task.id for task in tasks[123:173]]
    assert mix.metrics() == {"data/skipped_rows": 1.0}
    assert sorted(mix.inputs()) == sorted(str(path) for path in paths.values())
    small = mixture(size=10)
    assert len({small.task(small.next_index()).id for _ in range(40)}) == 10


def test_a_mixture_names_the_member_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"facts: path='none\.jsonl': there is no such file"):
        MixTaskset(families={"facts": 1}, settings={"facts": {"of": "dataset", "path": "none.jsonl"}})
    with pytest.raises(ValueError, match="no taskset 'facts'"):
        MixTaskset(families={"facts": 1}, settings={"facts": {"path": "none.jsonl"}})


def test_a_data_set_by_its_familys_name_in_a_mixture(folder: Path) -> None:
    named = {"dataset": {"path": str(folder / "a.jsonl"), "name": "sums"}}
    mix = MixTaskset(families={"dataset": 1, "search": 1}, settings=named)
    assert [mix.task(i).family for i in range(4)] == ["sums", "search", "sums", "search"]
    assert mix.task(300).family == "sums"  # position 150 of fewer rows: they come again


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"path": "nothing.jsonl"}, "no such file or folder"),
        ({"path": ""}, "path is missing"),
        ({"on_bad_row": "drop"}, "on_bad_row='drop': must be refuse or skip"),
        ({"name": "a/b"}, "name='a/b': must be letters"),
        ({"prompt_column": "question"}, "question: no such column in .*; it has prompt, answer"),
        ({"reward": "factory_tasksets.none"}, "no such function"),
        ({"reward": "nowhere.reward"}, "No module named 'nowhere'"),
        ({"split_column": "answer"}, "must be train or heldout"),
    ],
)
def test_what_is_refused(folder: Path, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetTaskset(**{"path": folder / "a.jsonl", **chosen})


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"cannot read \.xlsx; use \.jsonl"):
        DatasetTaskset(path=tmp_path / "a.xlsx")
    taskset = DatasetTaskset(path=folder / "a.jsonl", answer_column=None)
    with pytest.raises(ValueError, match="a reward function is needed"):
        answered(taskset, 0, "x")
