"""envs-build: same data set with any number of workers and after a kill, honest counts, clear errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from factory_tasksets import Sums, Together
from hypothesis import given
from hypothesis import strategies as st

from envs import build
from envs.factory import builder
from envs.factory.build_worker import Maker
from envs.factory.builder import build as build_plan
from envs.factory.plan import MIXES, Plan, plan_of
from envs.factory.rows import row_of, task_of
from envs.factory.store import Store, _difference
from envs.taskset import split_of, task_key
from envs.types import Message, Task, ToolCall

HERE = Path(__file__).parent
SUMS = "family=factory_tasksets.Sums"


def rows(out: Path) -> dict[str, list[dict[str, Any]]]:
    import datasets

    return {split: list(table) for split, table in datasets.load_from_disk(str(out)).items()}


def run(out: Path, *words: str) -> int:
    return build.main([SUMS, f"out={out}", "n=150", *(words or ("workers=0",))])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "sums"
    assert run(out) == 0
    return out


def test_a_data_set_of_verified_tasks(built: Path) -> None:
    data = rows(built)
    assert {split: len(r) for split, r in data.items()} == {"train": 150, "heldout": 7}
    every = [row for split in data.values() for row in split]
    assert len({row["key"] for row in every}) == len(every)
    maker = Maker(plan_of({"family": "factory_tasksets.Sums", "n": 150}))
    for part, split in enumerate(("train", "heldout")):
        assert maker.judge(part, data[split]) == [None] * len(data[split])
    assert not any(int(json.loads(row["answer"])) % 7 == 0 for row in every)


def test_the_card_says_what_was_done(built: Path) -> None:
    about, card = json.loads((built / "build.json").read_text()), (built / "README.md").read_text()
    train = about["records"][0]
    assert train["kept"] + sum(train["rejects"].values()) == train["next"]
    assert sum(train["levels"].values()) == 150
    # by hand, from the taskset itself: the candidates that were looked at
    made = [Sums().task(i) for i in range(train["next"])]
    first = list({task_key(t): t for t in reversed(made)}.values())
    raising = [t for t in made if int(t.answer) % 11 == 0]
    assert train["rejects"]["error:RuntimeError"] == len(raising) > 0
    good = [t for t in first if int(t.answer) % 11 and int(t.answer) % 7]
    assert len(good) == 150
    assert (
        train["rejects"].get("duplicate", 0) == sum(1 for t in made if int(t.answer) % 11 and int(t.answer) % 7) - 150
    )
    for text in ("| seven |", "error:RuntimeError", "eleven divides", "CC0", "rich ", f"out={built}", "envs-build"):
        assert text in card
    assert "workers" not in about["command"]


@pytest.mark.run
def test_two_processes_build_the_same(built: Path, tmp_path: Path) -> None:
    words = [SUMS, f"out={tmp_path / 'two'}", "n=150", "workers=2"]
    done = subprocess.run(
        [sys.executable, "-m", "envs.build", *words], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "150/150" not in done.stderr
    assert rows(tmp_path / "two") == rows(built)


@pytest.mark.run
def test_a_killed_build_goes_on_where_it_was(built: Path, tmp_path: Path) -> None:
    """Killed without warning, twice; no worker survives, nothing is made twice, and the result is the same."""
    out = tmp_path / "killed"
    code = (
        "import sys, envs.factory.builder as b, envs.build\nb.FLUSH_S = 0.05\nsys.exit(envs.build.main(sys.argv[1:]))"
    )
    slow = [SUMS, f"out={out}", "n=150", "slow_s=0.02", "workers=1"]
    positions = [0]
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, *slow], env=environment(), stdout=subprocess.DEVNULL)
        wait_until(lambda: position(out) > positions[-1], process)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == []
        positions.append(position(out))
    assert positions == sorted(set(positions))
    assert not (out / "build.json").exists()
    before = positions[-1]
    assert build.main([*slow[:-1], "workers=0"]) == 0
    assert json.loads((out / "build.json").read_text())["records"][0]["next"] > before
    assert rows(out) == rows(built)
    files = ["README.md", "build.json", "certificates", "dataset_dict.json", "heldout", "train"]
    assert sorted(p.name for p in out.iterdir()) == files


@pytest.mark.run
def test_a_stopped_build_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    code = (
        "import signal, sys, envs.build\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import envs.factory.builder as b; b.FLUSH_S = 0.05\n"
        "sys.exit(envs.build.main(sys.argv[1:]))"
    )
    words = [SUMS, f"out={out}", "n=150", "slow_s=0.1", "workers=0"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: position(out) > 0, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert error == "envs-build: stopped; the same command goes on from here\n"
    assert position(out) < 150


def position(out: Path) -> int:
    state = out / ".build" / "state.json"
    return int(json.loads(state.read_text())["records"][0]["next"]) if state.is_file() else 0


def wait_until(what: Any, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 240
    while not what():
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}


def test_a_finished_build_is_not_made_again(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = (built / "build.json").stat().st_mtime_ns
    assert run(built) == 0
    assert "150 tasks" in capsys.readouterr().out
    assert (built / "build.json").stat().st_mtime_ns == changed
    assert build.main([SUMS, f"out={built}", "n=150", "seed=1", "workers=0"]) == 1
    assert "with other seed: 0, now 1" in capsys.readouterr().err


def test_a_family_that_runs_out_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["top=3", "patience=200", "split=train", "workers=0"]
    assert build.main([SUMS, f"out={tmp_path / 'few'}", "n=50", *few]) == 0
    out = capsys.readouterr().out
    good = {f"{a}+{b}" for a in range(4) for b in range(4) if (a + b) % 11 and (a + b) % 7}
    expected = sum(split_of(key) == "train" for key in good)
    assert f"ran out: {expected} of 50 tasks: the last 200 candidates gave none" in out
    assert "**Ran out**" in (tmp_path / "few" / "README.md").read_text()
    twelve = ["family=factory_tasksets.Twelve", "n=50", "split=heldout", "workers=0"]
    assert build.main([*twelve, f"out={tmp_path / 'twelve'}"]) == 0
    assert "the taskset ends at task 12" in capsys.readouterr().out
    assert json.loads((tmp_path / "twelve" / "build.json").read_text())["records"][0]["next"] == 12


def test_a_broken_family_stops_the_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "broken"
    assert build.main(["family=factory_tasksets.Broken", "n=200", f"out={out}", "workers=0"]) == 1
    error = capsys.readouterr().err
    assert "45 of the last 45 candidates" in error
    assert "no corpus" in error
    assert "envs-check shows more" in error
    assert not (out / "build.json").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_word_that_the_taskset_refuses_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    words = ["family=releases", "n=5", 'tiers=["early"]', f"out={tmp_path / 'none'}", f"workers={workers}"]
    assert build.main(words) == 1
    assert capsys.readouterr().err == (
        "envs-build: family=releases: tiers is ['early']; use some of pair, function, earlier, removal\n"
    )


def test_slow_tasks_and_failures_of_the_machine(tmp_path: Path) -> None:
    plan = plan_of({"family": "factory_tasksets.Hanging", "n": 4, "verify_s": 0.05})
    maker = Maker(plan)
    made = [c.row for c in maker.propose(0, 0, 12) if c.row is not None]
    verdicts = [v.reason if v else None for v in maker.judge(0, made)]
    assert [v == "too_slow" for v in verdicts] == [int(json.loads(r["answer"])) % 2 == 1 for r in made]
    plan = plan_of({"family": "factory_tasksets.Flaky", "n": 4})
    maker = Maker(plan)
    made = [c.row for c in maker.propose(0, 0, 12) if c.row is not None]
    assert {v.reason if v else None for v in maker.judge(0, made)} <= {None, "seven", "error:RuntimeError"}


def test_a_family_that_judges_several_at_once_builds_the_same(tmp_path: Path) -> None:
    Together.orders.clear()
    kept = {}
    for name in ("Sums", "Together"):
        words = [f"family=factory_tasksets.{name}", "n=40", f"out={tmp_path / name}", "workers=0", "certify=0"]
        assert build.main(words) == 0
        kept[name] = [(row["key"], row["answer"]) for row in rows(tmp_path / name)["train"]]
    assert kept["Sums"] == kept["Together"]
    assert max(Together.orders) > 1
    assert 1 in Together.orders  # where eleven raised, one by one


def test_a_build_ends_by_the_clock_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(builder, "FLUSH_S", 0.0)
    out = tmp_path / "short"
    assert run(out, "workers=0", "build_s=0.000001", "split=train", "certify=0") == 0
    assert "ran out: the time is up (build_s=1e-06)" in capsys.readouterr().out
    record = json.loads((out / "build.json").read_text())["records"][0]
    assert 1 == len(rows(out)["train"]) == record["kept"] < 150
    assert run(out, "workers=0", "build_s=0.000001", "split=train", "certify=0") == 0  # no more time: as it was
    assert json.loads((out / "build.json").read_text())["records"][0] == record
    assert run(out, "workers=0", "split=train", "certify=0") == 0
    assert run(tmp_path / "whole", "workers=0", "split=train", "certify=0") == 0
    assert rows(out) == rows(tmp_path / "whole")
    assert not (out / ".build").exists()


def test_what_else_must_hold(tmp_path: Path) -> None:
    out = tmp_path / "odd"
    keep = ["keep=factory_tasksets.only_odd", 'keep_settings={"least": 9}', "split=train", "workers=0"]
    assert build.main([SUMS, "n=20", f"out={out}", *keep]) == 0
    answers = [int(json.loads(row["answer"])) for row in rows(out)["train"]]
    assert all(a % 2 and a >= 9 for a in answers)
    assert json.loads((out / "build.json").read_text())["records"][0]["rejects"]["even_or_small"] > 0
    assert "only_odd" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["n=5"], "give either family=NAME or mix=NAME"),
        (["family=search", "mix=v32"], "give either"),
        (["family=serch", "n=5"], "give one of search"),
        (["family=search"], "say how many tasks"),
        (["family=search", "n=5", "tier=middle"], "tier=middle: use hard or easy"),
        (["family=search", "n=5", "split=test"], "split=test"),
        (["family=mix", "n=5"], "serves tasks of others"),
        (["mix=v31"], "mix=v31: use v32"),
        (["mix=v32", "share=2"], "share=2"),
        (["mix=v32", "n=7"], "has its own numbers"),
        (["mix=v32", "tier=easy", "two_hop=1"], "two_hop: mix=v32 knows no such word"),
        (["family=search", "n=5", "tier=easy", "keep=nothing.here"], "keep=nothing.here"),
        (["family=search", "n=5", "workers=-1"], "workers=-1"),
        (["family=search", "n=5", "build_s=-1"], "build_s=-1: must be a number of seconds, at least 0 (0: as long"),
        (["family=search", "n=5", "build_s=nan"], "build_s=nan: must be a number of seconds"),
        (["family=search", "n=5", "verify_s=long"], "verify_s=long: must be a number of seconds"),
    ],
)
def test_errors_say_what_is_wrong(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main([*words, "out=nowhere"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("nowhere").exists()


def test_the_folder_must_be_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert run(tmp_path) == 1
    assert "did not write" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_two_builds_in_one_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "busy"
    with Store(out, plan_of({"family": "factory_tasksets.Sums", "n": 150})).locked():
        assert run(out) == 1
    assert "another envs-build is at work there" in capsys.readouterr().err


def test_the_mix_of_v32() -> None:
    assert sum(MIXES["v32"].values()) == 85_267  # by hand: 24,667 + 50,275 + 4,417 + 5,908
    plan = plan_of({"mix": "v32", "share": 0.01, "tier": "easy", "settings": {"search": {"two_hop": 1.0}}})
    wanted = {plan.sources[p.source].name: p.wanted for p in plan.parts if p.split == "train"}
    assert wanted == {"code": 247, "search": 503, "agent": 44, "interpreter": 59}
    assert plan.sources[1].settings == {"two_hop": 1.0}
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_families_are_told_apart(tmp_path: Path) -> None:
    """Two families in one data set: same keys, no duplicates of each other."""
    one, two = (plan_of({"family": f"factory_tasksets.{name}", "n": 20}) for name in ("Sums", "OtherSums"))
    parts = tuple(replace(p, source=s) for s, plan in enumerate((one, two)) for p in plan.parts)
    store = build_plan(Plan((*one.sources, *two.sources), parts), tmp_path / "both", 0, "")
    assert isinstance(store, Store)
    assert [r.families for r in store.records] == [{"sums": 20}, {"sums": 1}, {"other sums": 20}, {"other sums": 1}]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(answer=json_values, metadata=st.dictionaries(st.text("xyz"), json_values), seed=st.integers(0, 2**40))
def test_a_task_survives_its_row(answer: Any, metadata: dict[str, Any], seed: int) -> None:
    call = ToolCall("f", {"a": [1, {"b": None}]})
    prompt = (
        Message("system", "s", tools=({"name": "f"},)),
        Message("assistant", "", "r", (call,)),
        Message("user", "é"),
    )
    task = Task("id", "fam", prompt, answer, metadata, seed)
    assert task_of(json.loads(json.dumps(row_of(task)))) == task


def test_what_cannot_be_written_is_refused_when_it_is_made() -> None:
    with pytest.raises(UnicodeError):
        row_of(Task("id", "fam", (Message("user", "\ud800"),)))
    with pytest.raises(TypeError):
        row_of(Task("id", "fam", (Message("user", "?"),), metadata={"when": {1, 2}}))


def test_two_plans_differ_in_one_place() -> None:
    one = {"name": "sums", "settings": {"levels": [1], "tiers": ["a"] * 60}}
    other = {"name": "sums", "settings": {"levels": [1], "tiers": ["b"] * 61}}
    place, was, now = _difference("sources", [one], [other])
    assert place == "sources.0.settings.tiers"
    assert was.startswith("['a', 'a'")
    assert was.endswith(" …")
    assert len(now) < 90
    assert _difference("sources", [one], [{**one, "settings": {}}]) == ("sources.0.settings.levels", "[1]", "None")
