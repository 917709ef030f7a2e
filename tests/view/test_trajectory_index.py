"""Rollouts are found by their heads; lines that grow, are replaced or are broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import make_run, rollout

from rl.tracking.rundir import trajectory_json
from rl.view import trajectory_index
from rl.view.rollout_query import ALL, BadQuery, Finder, Query
from rl.view.run_list import NotThere
from rl.view.trajectory_index import FileIndex, TrajectoryIndex


def finder(path: Path) -> Finder:
    return Finder(make_run(path, steps=3, size=4), TrajectoryIndex())


def test_heads_are_what_the_rows_say(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    index = FileIndex(run.trajectories / "step_000001.jsonl").update()
    rows = run.read_trajectories("step_000001")
    assert [(h.id, h.task, h.family, h.reward, h.stop, h.turns, h.tokens) for h in index.heads] == [
        (r["id"], r["task_id"], r["family"], r["reward"], r["stop_reason"], r["turns"], r["sampled_tokens"])
        for r in rows
    ]
    assert [index.read(head) for head in index.heads] == rows


def test_the_head_is_cut_at_the_messages_and_nowhere_else(tmp_path: Path) -> None:
    trap = ', "messages": '
    made = rollout(task=trap, answer=trap)
    made.counts = {"x": 1, "messages": 2}
    row = trajectory_json(made)
    other_order = {"messages": row["messages"], **row}
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (row, other_order)))
    index = FileIndex(path).update()
    assert [head.task for head in index.heads] == [trap, trap]
    assert index.read(index.heads[1]) == row


def test_broken_lines_are_named_and_the_others_found(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    good = json.dumps(trajectory_json(rollout()))
    odd = json.dumps({"id": "a", "task_id": "t", "family": "f", "stop_reason": "s", "reward_parts": [1]})
    path.write_text(f"{good}\nnonsense\n[]\n{odd}\n{{}}\n{good}\n{good[:50]}")
    index = FileIndex(path).update()
    assert [head.line for head in index.heads] == [0, 5]
    assert index.unreadable == [2, 3, 4, 5]
    with path.open("a") as file:
        file.write(good[50:] + "\n")
    assert [head.line for head in index.update().heads] == [0, 5, 6]  # the last line was being written


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    index = TrajectoryIndex()
    path = run.trajectories / "step_000001.jsonl"
    head = index.file(path).heads[0]
    run.log_trajectories("step_000001", [rollout("other-0-0", answer="a longer answer than before, by far")])
    with pytest.raises((NotThere, ValueError)):
        index.file(path).read(head)
    assert [one.id for one in index.file(path).heads] == ["other-0-0"]
    path.unlink()
    with pytest.raises(NotThere):
        index.file(path)


def test_old_files_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory_index, "ROWS_KEPT", 10)
    run, index = make_run(tmp_path), TrajectoryIndex()
    for step in (1, 2, 3):
        assert len(index.file(run.trajectories / f"step_00000{step}.jsonl").heads) == 8
    assert len(index._files) == 1


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({}, 8),
        ({"file": ALL}, 24 + 8),
        ({"file": "step_000002", "family": "code"}, 4),
        ({"file": "step_000002", "low": "0.5"}, 4),
        ({"file": "step_000002", "low": "0.3", "high": "0.4"}, 2),
        ({"file": "step_000002", "stop": "answered", "failure": "none"}, 8),
        ({"file": "step_000002", "failure": "*"}, 0),
        ({"file": "step_000002", "stop": "context"}, 0),
    ],
)
def test_filters(params: dict[str, str], count: int, tmp_path: Path) -> None:
    found = finder(tmp_path)
    query = Query.read({"file": "step_000001"} | params, found.files)
    assert found.page(query).total == count


def test_failures_and_missing_rewards(tmp_path: Path) -> None:
    made = finder(tmp_path)
    lost = rollout("s-0-0", failure="env_error", reward=float("nan"))
    made.run.log_trajectories("step_000001", [rollout("s-0-1", reward=0.5), lost, rollout("s-0-2", reward=0.9)])

    def ids(**params: str) -> list[str]:
        return [p.head.id for p in made.page(Query.read({"file": "step_000001"} | params, made.files)).places]

    assert ids(failure="*") == ids(failure="env_error") == ["s-0-0"]
    assert ids(failure="none") == ["s-0-1", "s-0-2"]
    assert ids(low="-inf") == ["s-0-1", "s-0-2"]
    assert ids(sort="-reward") == ["s-0-2", "s-0-1", "s-0-0"]
    assert ids(sort="reward") == ["s-0-1", "s-0-2", "s-0-0"]
    assert ids(text="SANDBOX is gone") == ["s-0-0"]


@pytest.mark.parametrize(
    "text", ["ANSWER 2", "of 1", "I search", "library", "Oslo.", "Größe", "größe ☃", 'a"b\\c', "\n- x"]
)
def test_text_is_found_wherever_it_is_said(text: str, tmp_path: Path) -> None:
    made = finder(tmp_path)
    special = rollout("z-9-9", answer='Größe ☃ a"b\\c\n- x', thinking="none", prompt="?")
    made.run.log_trajectories(
        "step_000001", [*[rollout(f"s-0-{k}", answer=f"answer {k} of 1") for k in range(3)], special]
    )
    rows = made.run.read_trajectories("step_000001")
    told = [
        json.dumps([m for m in row["messages"] if m["role"] != "system"], ensure_ascii=False).lower() for row in rows
    ]
    wanted = [
        r["id"] for r, t in zip(rows, told, strict=True) if json.dumps(text, ensure_ascii=False)[1:-1].lower() in t
    ]
    assert wanted
    found = made.page(Query.read({"file": "step_000001", "text": text}, made.files))
    assert [place.head.id for place in found.places] == wanted
    assert (found.total, found.more) == (None, False)


def test_pages_and_neighbours_follow_one_order(tmp_path: Path) -> None:
    made = finder(tmp_path)
    made.run.log_trajectories(
        "step_000001", [rollout(f"s-0-{k}", reward=k % 7, answer=f"word {k}") for k in range(120)]
    )
    for params in ({"sort": "-reward"}, {"text": "word"}, {"text": "word", "sort": "reward"}):
        query = Query.read({"file": "step_000001", **params}, made.files)
        pages = [
            made.page(Query.read({"file": "step_000001", "page": str(n), **params}, made.files)) for n in (1, 2, 3, 4)
        ]
        assert [len(page.places) for page in pages] == [50, 50, 20, 0]
        assert [page.more for page in pages] == [True, True, False, False]
        walked = [place for page in pages for place in page.places]
        assert len({place.at for place in walked}) == 120
        before, after, number, count = made.neighbours(query, walked[50])
        assert before is not None
        assert after is not None
        assert (before.at, after.at) == (walked[49].at, walked[51].at)
        assert (number, count) == ((None, None) if "text" in params else (51, 120))
        assert made.neighbours(query, walked[0])[0] is None
        assert made.neighbours(query, walked[-1])[1] is None


def test_the_group_of_a_task(tmp_path: Path) -> None:
    made = finder(tmp_path)
    again = [rollout(f"search-{g}-{k}", "search-train/1") for g in (1, 7) for k in range(3)]  # a task admitted twice
    made.run.log_trajectories("step_000001", again)
    place = made.place("step_000001:4")
    assert [p.head.id for p in made.same_task("step_000001", place.head)] == ["search-7-0", "search-7-1", "search-7-2"]
    assert made.same_task("eval_after", place.head) == []
    held_out = made.place("eval_before:0")
    assert [p.at for p in made.same_task("eval_after", held_out.head)] == ["eval_after:0", "eval_after:1"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"low": "much"}, "low='much': must be a number"),
        ({"high": "nan"}, "high='nan'"),
        ({"page": "0"}, "page='0': must be a number from 1 on"),
        ({"page": "9" * 40}, "page="),
        ({"sort": "task"}, "sort='task': use -reward"),
        ({"text": "x" * 501}, "text: at most 500"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, str], said: str) -> None:
    with pytest.raises(BadQuery) as refused:
        Query.read(params, ["step_000001"])
    assert said in str(refused.value)


def test_a_query_survives_its_url() -> None:
    from urllib.parse import parse_qsl

    params = {"file": "step_1", "family": "a&b", "low": "0.25", "high": "1", "failure": "*", "stop": "context",
              "text": "50% <b>", "sort": "-tokens", "page": "3"}  # fmt: skip
    query = Query.read(params, [])
    assert Query.read(dict(parse_qsl(query.url())), []) == query
    assert Query.read({}, ["eval_before", "step_000001", "stages/x/step_000009"]).file == "step_000001"
