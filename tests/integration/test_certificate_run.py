"""A run that demands a certificate: refused, then certified by envs-check, trained, and shown in report and pages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from made_runs import client_of
from train_runs import BIN, Command

from rl.tracking.rundir import RunDir

MODULE = Path(__file__).parents[1] / "envs" / "certificate_tasksets.py"
ENV = ("env._target_=certified_words.RepeatTaskset", "env.digits=2")


def test_no_certificate_no_run_and_with_one_it_is_shown(tmp_path: Path) -> None:
    shutil.copy(MODULE, tmp_path / "certified_words.py")
    train = [str(BIN / "rl-train"), *ENV, "experiment=smoke", "certificate=demand"]
    refused = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert "has no certificate: run envs-check certified_words.RepeatTaskset digits=2" in " ".join(said.split())
    assert not (tmp_path / "runs").exists()

    words = said.rpartition(": run envs-check ")[2].split()[:2]
    assert "certificate, valid" in Command("envs-check", *words, cwd=tmp_path).wait()
    Command("rl-train", *train[1:], cwd=tmp_path).wait()
    run = RunDir.existing(tmp_path / "runs" / "demo-0")
    shown = run.read_summary()["certificates"]["repeat"]
    assert (shown["state"], shown["results"]["oracle"], shown["results"]["cheats"]) == (
        "valid", "20 of 20", "0 of 63 paid",
    )  # fmt: skip
    report = run.report.read_text()
    assert "<h2>Certificates of the task sets</h2>" in report
    assert "0 of 63 paid" in report
    assert "Certificates of the task sets: repeat valid" in client_of(tmp_path / "runs").get("/run/demo-0").text
