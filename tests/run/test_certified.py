"""What rl-train makes of certificates, before a run has a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from in_process import command

from envs import check
from envs.dataset import DatasetTaskset
from envs.environment import Environment
from envs.families import taskset_class
from envs.mixture import MixTaskset
from envs.taskset import Taskset
from envs.types import Message, Task
from rl.run.certified import standings
from rl.tracking.certificates import CERTIFICATE_COLUMNS, certificate_notes, certificate_rows

ECHO = f"{__name__}.EchoTaskset"


class Echo(Environment):
    def oracle(self, history):
        return Message("assistant", str(self.task.answer))


class EchoTaskset(Taskset):
    family, env_class = "echo", Echo

    def task(self, index):
        key, word = self.draw(index, lambda rng: (f"No. {rng.random()}", str(rng.randrange(10**9))))
        return Task(self.task_id(index), self.family, (Message("user", f"{key}: {word}"),), word, {"key": key})


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_line_for_what_is_not_ours_with_the_command() -> None:
    mix = MixTaskset(families={"search": 1, ECHO: 1}, settings={ECHO: {"max_output_chars": 7}})
    shown, said = standings(mix, "warn", "certificates")
    line = f"the task set echo ({ECHO}) has no certificate: run envs-check {ECHO} max_output_chars=7"
    assert said == [f"warning: {line}"]
    assert {family: one["state"] for family, one in shown.items()} == {"search": "ours", "echo": "none"}
    with pytest.raises(ValueError, match=r"^certificate=demand: the task set echo .* run envs-check"):
        standings(mix, "demand", "certificates")
    assert standings(mix, "off", "certificates") == ({}, [])
    assert standings(taskset_class("search")(), "demand", "certificates")[1] == []


def test_the_command_that_is_named_makes_the_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    taskset = EchoTaskset(max_output_chars=7)
    (line,) = standings(taskset, "warn", "certificates")[1]
    _, *words = line.rpartition(": run ")[2].split()
    assert check.main(words) == 0
    shown, said = standings(taskset, "demand", "certificates")
    assert said == []
    row = dict(zip(CERTIFICATE_COLUMNS, *certificate_rows({"certificates": shown}), strict=True))
    assert (row["family"], row["certificate"], row["oracle"], row["cheats"], row["tasks"]) == (
        "echo", "valid", "20 of 20", "0 of 63 paid", "20",
    )  # fmt: skip
    assert [row[name] for name in ("doing nothing", "random tools", "deterministic", "other checks")] == [
        "0.00", "0.00", "yes", "yes",
    ]  # fmt: skip
    other = standings(EchoTaskset(), "warn", "certificates")
    assert "has changed (changed since: settings (max_output_chars); certificates/echo-" in other[1][0]
    assert certificate_rows({"certificates": other[0]})[0][1] == "stale"
    assert certificate_notes({"certificates": other[0]}) == ["echo: changed since: settings (max_output_chars)"]


def test_one_of_what_did_not_hold_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Echo, "score", lambda self, episode: {"outcome": float(self.task.answer in episode.answer)})
    assert check.main([ECHO]) == 0  # a cheat that is paid is a warning
    shown, (line,) = standings(EchoTaskset(), "warn", "certificates")
    assert shown["echo"]["state"] == "failed"
    assert (
        "has a certificate of what did not hold (cheats: echo/train/0/0: the cheat 'right or wrong' is paid 1" in line
    )
    with pytest.raises(ValueError, match="certificate=demand"):
        standings(EchoTaskset(), "demand", "certificates")
    assert check.main([ECHO, 'waive={"cheats": "a list may hold the answer"}']) == 0
    shown, said = standings(EchoTaskset(), "demand", "certificates")
    assert said == []
    assert certificate_notes({"certificates": shown}) == ["echo: cheats waived: a list may hold the answer"]


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (lambda text: "", "it cannot be read: Expecting value"),
        (lambda text: text[:200], "it cannot be read: "),
        (lambda text: "[1, 2]", "it is no certificate"),
        (lambda text: text.replace('"certificate": 1', '"certificate": 9'), "its format is 9, this version reads 1"),
        (lambda text: text.replace('"results"', '"result"'), "it has no results"),
        (lambda text: text.replace('"made_by"', '"made"'), "it has no task_set.made_by"),
    ],
)
def test_a_damaged_one_is_called_that_with_its_file(cut: Callable[[str], str], said: str) -> None:
    assert check.main([ECHO]) == 0
    (file,) = Path("certificates").glob("*.json")
    whole = file.read_text()
    assert cut(whole) != whole
    file.write_text(cut(whole))
    shown, (line,) = standings(EchoTaskset(), "warn", "certificates")
    assert shown["echo"]["state"] == "damaged"
    assert f"has a damaged certificate ({said}" in line
    assert f"; {file}): run envs-check {ECHO}" in line
    with pytest.raises(ValueError, match=r"certificate=demand: .* has a damaged certificate"):
        standings(EchoTaskset(), "demand", "certificates")
    file.rename(file.with_name("something-else.json"))  # whatever that is, it is not its own
    assert standings(EchoTaskset(), "warn", "certificates")[0]["echo"]["state"] == "none"


def test_an_evaluation_looks_for_them_too(tmp_path: Path) -> None:
    words = ["path=pkg://rl.bases/tiny_dsa_base", f"env._target_={ECHO}", "certificate=demand", "out=results"]
    done = command("rl-eval", *words, cwd=tmp_path)
    assert done.returncode != 0
    assert f"certificate=demand: the task set echo ({ECHO}) has no certificate: run envs-check {ECHO}" in done.output
    assert not (tmp_path / "results" / "config.yaml").exists()


def test_what_a_call_brought_along_is_found_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tmp_path / "runs" / "a" / "inputs"
    inputs.mkdir(parents=True)
    (inputs / "brought_to_a_test.py").write_text("def right(answer, row):\n    return answer == row['answer']\n")
    (inputs / "rows.jsonl").write_text("".join(f'{{"prompt": "{n}?", "answer": "{n}"}}\n' for n in range(20)))
    monkeypatch.syspath_prepend(inputs)
    taskset = DatasetTaskset(path="runs/a/inputs/rows.jsonl", reward="brought_to_a_test.right")
    (line,) = standings(taskset, "warn", "certificates")[1]
    wanted = "envs-check dataset path=runs/a/inputs/rows.jsonl reward=brought_to_a_test.right"
    assert line.endswith(f": run PYTHONPATH={inputs} {wanted}")


def test_the_command_refuses_before_there_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"env._target_={ECHO}", "certificate=demand"]
    done = command("rl-train", *words, cwd=tmp_path)
    assert done.returncode != 0
    assert f"certificate=demand: the task set echo ({ECHO}) has no certificate: run envs-check {ECHO}" in done.output
    assert not (tmp_path / "runs").exists()
    assert command("envs-check", ECHO, "certificates=kept", cwd=tmp_path).returncode == 0
    begun = SimpleNamespace(about=None)

    def begin(cfg, rundir, tasksets, about, placing, ray):
        begun.about = about
        return {}

    monkeypatch.setattr("rl.recipes.main_job.main_job", begin)
    done = command("rl-train", *words, "certificates=kept", cwd=tmp_path)
    assert done.returncode == 0, done.output
    assert "certificate" not in done.output
    assert begun.about["certificates"]["echo"]["state"] == "valid"
    assert command("rl-train", *words[:1], "certificate=maybe", cwd=tmp_path).returncode != 0
