"""Progress: plain lines are few and complete; the live display shows stages, bar and time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rl.tracking.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.t = 0.0

    def __call__(self) -> float:
        return self.t


def test_plain_lines_are_rate_limited() -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=False, width=80)
    with Progress(["base", "grpo"], console=console, plain_every_s=10, now=clock) as progress:
        progress.reused("base", "cached [abc]")
        with progress.stage("grpo", total=60) as stage:
            for step in range(1, 61):
                clock.t += 1.0
                stage.update(step, reward=0.5, rewards={"search": 0.4, "code": 0.6}, tokens_per_s=2300.0)
    lines = out.getvalue().splitlines()
    assert lines[0] == "[    0s] base: reused · cached [abc]"
    assert lines[1] == "[    0s] grpo: started (60 steps)"
    assert lines[2] == "[   10s] grpo 10/60 · reward 0.50 (code 0.60, search 0.40) · 2,300 tok/s · 50s left"
    assert len(lines) == 2 + 6 + 1
    assert lines[-1].startswith("[ 1m00s] grpo: done in 1m00s · reward 0.50")
    assert progress.wall_s() == {"base": 0.0, "grpo": 60.0}


def test_a_failed_stage_is_named() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress([], console=Console(file=out, force_terminal=False), now=clock)

    def run() -> None:
        with progress, progress.stage("grpo", total=3) as stage:
            stage.update(2)
            clock.t = 7
            raise KeyError("x")

    with pytest.raises(KeyError):
        run()
    assert out.getvalue().splitlines()[-1] == "[    7s] grpo: failed after 7s at step 2"


def test_time_left_follows_the_recent_pace() -> None:
    clock = Clock()
    progress = Progress(["s"], console=Console(file=io.StringIO()), now=clock)
    with progress.stage("s", total=100) as stage:
        assert stage.seconds_left() is None
        for step in range(1, 21):  # ten slow steps, then ten fast ones
            clock.t += 10.0 if step <= 10 else 1.0
            stage.update(step)
        assert stage.seconds_left() == pytest.approx(80.0)
        clock.t += 3
        assert stage.seconds_left() == pytest.approx(77.0)


def test_live_display() -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=100, legacy_windows=False)
    with Progress(["base", "grpo", "report"], console=console, now=clock) as progress:
        progress.reused("base", "cached")
        with progress.stage("grpo", total=4) as stage:
            clock.t = 2.0
            stage.update(1, reward=0.25, note="version 1")
            shown = Console(width=100, file=io.StringIO(), record=True)
            shown.print(progress)
            text = shown.export_text()
    assert "✓" not in text
    for piece in ("= base", "▸ grpo", "· report", "1/4", "6s left", "reward 0.25 · version 1"):
        assert piece in text
    assert "✓" in out.getvalue()
