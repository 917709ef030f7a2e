"""Certificates: what is in one, which task set it is of, when it holds no more, and where it lies."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from envs import build, check, closure
from envs.built import BuiltTaskset
from envs.certificate.identity import command_of, identity_of, is_ours, parts_of, settings_of
from envs.certificate.shelf import find
from envs.certificate.verdicts import ROWS, failed, in_words, results_of
from envs.curriculum import CurriculumTaskset
from envs.dataset import DatasetTaskset
from envs.families import taskset_class
from envs.mixture import MixTaskset
from envs.promises import Finding
from envs.taskset import Taskset

FOLDER = Path("certificates")
QUESTIONS = [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(10, 40)]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The tasksets of certificate_tasksets.py in a module of one's own, in the working directory."""
    shutil.copy(Path(__file__).with_name("certificate_tasksets.py"), tmp_path / "mine_of_a_test.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    closure._source.cache_clear()  # which knows where the module of another test was
    yield importlib.import_module("mine_of_a_test")
    del sys.modules["mine_of_a_test"]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data" / "sums.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return file


def written(folder: Path = FOLDER) -> dict[str, Any]:
    (file,) = folder.glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def state(taskset: Taskset) -> tuple[str, str]:
    found = find(taskset, FOLDER)
    return found.state, found.said


# -- what is in it --------------------------------------------------------------------------


def test_a_good_task_set_has_a_valid_one(mine: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["mine_of_a_test.RepeatTaskset", "tasks=7", "digits=9"]) == 0
    assert "certificate, valid: certificates/repeat-" in capsys.readouterr().out
    one = written()
    assert [one[key] for key in ("certificate", "tasks", "waived")] == [1, 7, {}]
    assert one["command"] == "envs-check mine_of_a_test.RepeatTaskset tasks=7 digits=9"
    assert list(one["results"]) == list(ROWS)
    assert all(result["held"] for result in one["results"].values())
    assert (one["results"]["oracle"]["solved"], one["results"]["oracle"]["of"]) == (7, 7)
    assert one["results"]["doing nothing"]["mean"] == 0.0
    assert one["results"]["random tools"]["limit"] == pytest.approx(0.1 + 2 * (0.1 * 0.9 / 7) ** 0.5)
    assert one["results"]["cheats"]["played"] > 40
    of = one["task_set"]
    assert (of["made_by"], of["families"], of["settings"]) == (
        "mine_of_a_test.RepeatTaskset", ["repeat"], {"digits": 9},
    )  # fmt: skip
    assert (of["rows"]["tasks"], of["rows"]["split"], of["rows"]["seed"]) == (5, "train", 0)
    assert {"mine_of_a_test", "envs.environment", "envs.taskset"} <= set(of["code"]["modules"])
    assert not [name for name in of["code"]["modules"] if name.startswith("envs.certificate")]


def test_what_did_not_hold_is_named_and_can_be_waived(mine: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["mine_of_a_test.GivenTaskset", "tasks=5"]
    assert check.main(words) == 1  # giving up is rewarded: bad behaviour
    assert "certificate, not valid (doing nothing, other checks)" in capsys.readouterr().out
    one = written()
    assert failed(one["results"]) == ["doing nothing", "other checks"]
    assert one["results"]["doing nothing"]["mean"] == 1.0
    assert "then giving up, was scored" in one["results"]["other checks"]["said"]
    found, said = state(mine.GivenTaskset())
    assert found == "failed"
    assert said.startswith("doing nothing: doing nothing 1.00, random tools 1.00; other checks: bad behaviour: ")
    reasons = {"doing nothing": "silence is right here", "other checks": "so is giving up", "oracle": "for no reason"}
    assert check.main([*words, f"waive={json.dumps(reasons)}"]) == 0
    out = capsys.readouterr().out
    assert "waive.oracle: it held, so it needs no waiver" in out
    assert "certificate, valid: " in out
    del reasons["oracle"]
    assert written()["waived"] == reasons
    assert state(mine.GivenTaskset()) == (
        "valid", "doing nothing waived: silence is right here; other checks waived: so is giving up",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ('waive={"cheat": "they are right"}', "waive.cheat: no such row; rows are oracle, doing nothing, random tools"),
        ('waive={"cheats": "why"}', "waive.cheats='why': give the reason, in words"),
        ("waive=cheats", "waive='cheats': give rows and reasons"),
    ],
)
def test_a_waiver_needs_a_row_and_a_reason(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["search", word]) == 2
    assert said in capsys.readouterr().err


def test_rows_from_findings() -> None:
    """What was not measured did not hold, unless there was nothing to look at; a failed check is in one row."""
    findings = [
        Finding("oracle", "skipped", "no oracle"), Finding("chance", "FAILED", "it hangs"),
        Finding("cheats", "WARNING", "paid"), Finding("determinism", "ok", "same"),
        Finding("repeat", "FAILED", "differs"), Finding("splits", "FAILED", "shared"), Finding("time", "ok", "fast"),
    ]  # fmt: skip
    measured = {"doing nothing": {"mean": 0.0, "limit": 0.2}, "cheats": {"played": 9, "paid": ["a"], "raised": []}}
    found = results_of(findings, measured)
    held = {row: result["held"] for row, result in found.items()}
    assert held == {
        "oracle": None, "doing nothing": True, "random tools": False, "cheats": False, "deterministic": False,
        "other checks": False,
    }  # fmt: skip
    assert found["other checks"]["said"] == "splits: shared"
    assert [in_words(row, result) for row, result in found.items()] == [
        "none", "0.00", "failed", "1 of 9 paid", "failed", "failed",
    ]  # fmt: skip
    assert failed(found, {"cheats": "r", "deterministic": "r"}) == ["random tools", "other checks"]


# -- which task set it is -------------------------------------------------------------------


def test_what_changes_is_named(mine: ModuleType, tmp_path: Path) -> None:
    assert check.main(["mine_of_a_test.RepeatTaskset", "tasks=5"]) == 0
    assert state(mine.RepeatTaskset(seed=7, max_turns=3, digits=6, max_output_chars=2000)) == ("valid", "")
    assert state(mine.RepeatTaskset("heldout", size=3)) == ("valid", "")
    assert state(mine.RepeatTaskset(digits=7)) == ("stale", "changed since: settings (digits), rows (its tasks)")
    assert state(mine.RepeatTaskset(polite=True)) == ("stale", "changed since: settings (polite)")
    assert state(mine.GivenTaskset()) == ("none", "")
    with (tmp_path / "mine_of_a_test.py").open("a") as file:
        file.write("\n# a remark\n")
    assert state(mine.RepeatTaskset()) == ("stale", "changed since: code (mine_of_a_test)")


def test_a_file_that_nobody_names_is_noticed(mine: ModuleType, tmp_path: Path) -> None:
    """Nothing says that the tasks read it, but the first tasks, made at the certificate's seed, are not the same."""
    mine.HIDDEN = tmp_path / "hidden.txt"  # type: ignore[attr-defined]
    mine.HIDDEN.write_text("a")
    taskset = mine.RepeatTaskset(seed=3)
    subject = check.Subject(lambda split: mine.RepeatTaskset(split), 2, 10.0)
    check.certify(check.run_checks(subject), FOLDER, {})
    assert state(taskset) == ("valid", "")
    mine.HIDDEN.write_text("b")
    assert state(taskset) == ("stale", "changed since: rows (its tasks)")
    mine.HIDDEN.unlink()
    assert state(taskset)[1].startswith("its tasks cannot be made as they were: ")


def test_rows_count_by_content_and_their_certificate_lies_beside_them(rows: Path) -> None:
    assert check.main(["dataset", f"path={rows}", "reward=numeric"]) == 0
    one = written(rows.parent / "certificates")
    assert one["task_set"]["settings"] == {"path": "(its rows)", "reward": "numeric"}
    (file,) = one["task_set"]["rows"]["files"]
    assert (file["name"], file["rows"]) == ("sums.jsonl", 30)
    assert state(DatasetTaskset(path=rows, reward="numeric", name="adding", shuffle=False)) == ("valid", "")
    moved = rows.parent.rename(rows.parent.with_name("moved")) / rows.name
    moved = moved.rename(moved.with_name("other.jsonl"))
    assert state(DatasetTaskset(path="moved/other.jsonl", reward="numeric")) == ("valid", "")
    moved.write_text(moved.read_text().replace("20", "21", 1))
    said = state(DatasetTaskset(path=moved, reward="math"))
    assert said == ("stale", "changed since: settings (reward), rows (other.jsonl)")


def test_beside_data_that_may_only_be_read_is_the_folder(rows: Path) -> None:
    (rows.parent / "certificates").write_text("in the way")
    assert check.main(["dataset", f"path={rows}", "certificates=elsewhere"]) == 0
    assert find(DatasetTaskset(path=rows), Path("elsewhere")).state == "valid"
    assert find(DatasetTaskset(path=rows), FOLDER).state == "none"


def test_what_lies_among_certificates_and_is_none(mine: ModuleType) -> None:
    assert check.main(["mine_of_a_test.RepeatTaskset", "tasks=2", "certificates=null"]) == 0
    assert not FOLDER.exists()
    FOLDER.mkdir()
    for name, text in (("a.json", "{"), ("b.json", "[]"), ("c.json", '{"certificate": 0}'), ("d.txt", "x")):
        (FOLDER / name).write_text(text)
    assert state(mine.RepeatTaskset()) == ("none", "")


def test_the_command_makes_the_same_task_set(mine: ModuleType, rows: Path) -> None:
    for taskset in (
        mine.RepeatTaskset(digits=9, seed=4, polite=True),
        DatasetTaskset(path=rows, reward="numeric", system="42", name="mine", split_column=None),
        taskset_class("search")(top_k=5),
    ):
        _, name, *words = shlex.split(command_of(taskset))
        again = taskset_class(name)(**check.parse_settings(words))
        assert settings_of(again) == settings_of(taskset)
        assert (
            identity_of(again, {"split": "train", "seed": 0}).rows
            == identity_of(taskset, {"split": "train", "seed": 0}).rows
        )


def test_a_mixture_has_none_its_members_have(mine: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    members = {"search": 1, "mine_of_a_test.RepeatTaskset": 1}
    mix = CurriculumTaskset(of="mix", settings={"families": members, "settings": {"search": {"top_k": 5}}})
    assert [type(part).__name__ for part in parts_of(mix)] == ["SearchTaskset", "RepeatTaskset"]
    assert [is_ours(part) for part in parts_of(mix)] == [True, False]
    assert parts_of(MixTaskset(families=members))[1].family == "repeat"
    check.main(["mix", f"families={json.dumps(members)}", "tasks=2"])
    said = capsys.readouterr().out
    assert "check each of them:\n  envs-check search\n  envs-check mine_of_a_test.RepeatTaskset\n" in said
    assert not FOLDER.exists()


def test_ours_is_what_comes_with_this_package_alone(rows: Path) -> None:
    assert is_ours(taskset_class("agent")())
    assert not is_ours(DatasetTaskset(path=rows))
    pytest.importorskip("gymnasium")
    assert not is_ours(taskset_class("envs.bridges.gym.FrozenLakeTaskset")())


# -- of a built data set --------------------------------------------------------------------


def test_a_build_certifies_what_it_wrote(mine: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["family=mine_of_a_test.RepeatTaskset", "n=12", "heldout=4", "workers=0", "out=data/mine"]
    assert build.main([*words, "certify=0"]) == 0
    assert not Path("data/mine/certificates").exists()
    assert build.main([*words, "certify=6"]) == 0  # it is finished: the certificate alone is made
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("certificate")]
    assert line.startswith("certificate, valid: ")
    assert written(Path("data/mine/certificates"))["tasks"] == 6
    assert state(BuiltTaskset(path="data/mine", seed=5, balance=True)) == ("valid", "")
    (table,) = Path("data/mine/train").glob("*.arrow")
    table.write_bytes(table.read_bytes() + b"\0")
    assert state(BuiltTaskset("heldout", path="data/mine")) == ("stale", "changed since: rows (mine)")


def test_one_split_is_enough(mine: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["family=mine_of_a_test.RepeatTaskset", "n=4", "split=heldout", "workers=0", "out=one"]
    assert build.main(words) == 0
    assert "certificate, valid" in capsys.readouterr().out
    assert build.main([*words[:-1], "out=other", "certify=-1"]) == 2
    assert "certify=-1: must be at least 0" in capsys.readouterr().err
