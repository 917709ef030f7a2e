"""A reward function over a data set: formats, splits, rewards sync and async, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from envs.check import check_taskset
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


def test_several_data_sets_in_a_mixture(folder: Path) -> None:
    settings = {"dataset": {"path": str(folder / "a.jsonl"), "name": "sums"}}
    mix = MixTaskset(families={"dataset": 1, "search": 1}, settings=settings)
    assert [mix.task(i).family for i in range(4)] == ["sums", "search", "sums", "search"]
    assert mix.task(300).family == "sums"  # position 150 of fewer rows: they come again


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nothing.jsonl"}, "no such file or folder"),
        ({"path": ""}, "no such file or folder"),
        ({"prompt_column": "question"}, "question: no such column in .*; it has prompt, answer"),
        ({"reward": "factory_tasksets.none"}, "no such function"),
        ({"reward": "nowhere.reward"}, "No module named 'nowhere'"),
        ({"split_column": "answer"}, "must be train or heldout"),
    ],
)
def test_what_is_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetTaskset(**{"path": folder / "a.jsonl", **settings})


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"cannot read \.xlsx; use \.parquet"):
        DatasetTaskset(path=tmp_path / "a.xlsx")
    taskset = DatasetTaskset(path=folder / "a.jsonl", answer_column=None)
    with pytest.raises(ValueError, match="a reward function is needed"):
        answered(taskset, 0, "x")
