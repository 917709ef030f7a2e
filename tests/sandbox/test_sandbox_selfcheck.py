"""``python -m envs.sandbox``: its verdict and its exit code."""

from __future__ import annotations

import time

import pytest

from envs.sandbox import __main__ as selfcheck
from envs.sandbox import bubblewrap
from envs.sandbox.probes import ANY, Probe

HELD = Probe("a file of the host", "it does not exist", "open(SECRET).close()", {"ENOENT"}, ANY)
OPEN = Probe("nothing at all", "it must fail", "pass", {"EPERM"})
ODD = Probe("a slip", "it must be refused", "no_such_name", {"EPERM"})


def test_says_what_held_and_what_did_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(selfcheck, "_times", lambda: None)
    monkeypatch.setattr(selfcheck, "ESCAPES", (HELD,))
    assert selfcheck.main() == 0
    said = capsys.readouterr().out
    assert "1 of 1 attempts contained" in said
    assert "1 of them were shown to come through outside" in said
    monkeypatch.setattr(selfcheck, "ESCAPES", (HELD, OPEN, ODD))
    assert selfcheck.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["held", "OPEN", "odd"]
    assert "1 of 3 attempts contained" in lines[4]


def test_times_are_measured():
    runs = []
    assert selfcheck._quantiles(10, lambda: runs.append(time.sleep(0.02))).endswith("ms (10 runs)")
    median = float(selfcheck._quantiles(10, lambda: time.sleep(0.02)).split()[1])
    assert median >= 20.0
    assert len(runs) == 10


def test_no_sandbox_is_said_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    bubblewrap._tools.cache_clear()
    monkeypatch.setattr(bubblewrap.sys, "platform", "darwin")
    try:
        assert selfcheck.main() == 1
    finally:
        bubblewrap._tools.cache_clear()
    assert "no sandbox: the sandbox needs Linux" in capsys.readouterr().err
