"""What a person sees while a run goes on: the list of stages, and how far the current one is.

On a terminal this is a live display (rich); elsewhere (a log file, CI) one plain line per stage start and end
and, in between, at most one every ``plain_every_s`` seconds.

    with Progress(["tokenizer", "base policy", "grpo"]) as progress:
        progress.reused("tokenizer", "cached")
        with progress.stage("grpo", total=60) as stage:
            stage.update(12, rewards={"search": 0.4}, reward=0.5, tokens_per_s=2300, note="version 12")
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rl.tracking.summary import clock

_SIGNS = {"waiting": "·", "running": "▸", "done": "✓", "reused": "=", "failed": "✗"}
_STYLES = {"waiting": "dim", "running": "bold", "done": "green", "reused": "cyan", "failed": "bold red"}


class Stage:
    """One stage of the run. ``total`` None means that its length is not known."""

    def __init__(self, name: str, owner: Progress) -> None:
        self.name = name
        self.total: int | None = None
        self.step = 0
        self.state = "waiting"
        self.note = ""
        self.reward: float | None = None
        self.rewards: dict[str, float] = {}
        self.tokens_per_s: float | None = None
        self.started: float | None = None
        self.ended: float | None = None
        self._owner = owner
        self._marks: deque[tuple[float, int]] = deque(maxlen=11)  # (time, step): time left from the last ten

    def update(
        self,
        step: int,
        *,
        reward: float | None = None,
        rewards: Mapping[str, float] | None = None,
        tokens_per_s: float | None = None,
        note: str | None = None,
    ) -> None:
        """``step`` of ``total`` steps are done. What is not given keeps its last value."""
        self._marks.append((self._owner.now(), step))
        self.step = step
        self.reward = self.reward if reward is None else reward
        self.rewards = self.rewards if rewards is None else dict(rewards)
        self.tokens_per_s = self.tokens_per_s if tokens_per_s is None else tokens_per_s
        self.note = self.note if note is None else note
        self._owner.changed(self)

    def seconds(self) -> float:
        """Seconds since the stage began, or its whole time once it has ended."""
        if self.started is None:
            return 0.0
        return (self._owner.now() if self.ended is None else self.ended) - self.started

    def seconds_left(self) -> float | None:
        """Expected rest of the stage at the pace of its last ten updates; None while unknown."""
        if self.total is None or len(self._marks) < 2:
            return None
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        if s1 <= s0:
            return None
        since = self._owner.now() - t1
        return max((t1 - t0) / (s1 - s0) * (self.total - s1) - since, 0.0)

    def numbers(self) -> str:
        """``reward 0.53 (code 0.60, search 0.40) · 2,300 tok/s · note``: the known ones."""
        parts: list[str] = []
        families = ", ".join(f"{name} {value:.2f}" for name, value in sorted(self.rewards.items()))
        if self.reward is not None:
            parts.append(f"reward {self.reward:.2f}" + (f" ({families})" if families else ""))
        elif families:
            parts.append(f"reward {families}")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:,.0f} tok/s")
        if self.note:
            parts.append(self.note)
        return " · ".join(parts)

    def begin(self, total: int | None) -> None:
        self.total, self.state = total, "running"
        self.started, self.ended = self._owner.now(), None
        self._marks.append((self.started, 0))

    def end(self, state: str, note: str | None = None) -> None:
        self.ended, self.state = self._owner.now(), state
        self.started = self.ended if self.started is None else self.started
        self.note = self.note if note is None else note


class Progress:
    """Shows the stages of a run. A context manager; stages go one after the other.

    Args:
        stages: their names in order. A name that comes up later without being listed here is added at the end.
        console: where to write (stdout by default).
        plain_every_s: least time between two lines of a stage when the output is no terminal.
        now: clock in seconds.
    """

    def __init__(
        self,
        stages: Sequence[str],
        *,
        console: Console | None = None,
        plain_every_s: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.now = now
        self.stages = {name: Stage(name, self) for name in stages}
        self._console = console or Console()
        self._plain_every_s = plain_every_s
        self._last_line = -float("inf")
        self._started = now()
        # Twice a second is enough to see it move, and costs nothing next to the training on the same cores.
        self._live = (
            Live(self, console=self._console, refresh_per_second=2, transient=False)
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Run one stage. An exception marks it as failed and goes on."""
        stage = self._get(name)
        stage.begin(total)
        self._line(f"{name}: started" + (f" ({total} steps)" if total else ""))
        self._last_line = self.now()
        try:
            yield stage
        except BaseException as error:
            how = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"  # by a signal, in order
            stage.end(how)
            self._line(f"{name}: {how} after {clock(stage.seconds())} at step {stage.step}")
            raise
        stage.end("done")
        numbers = stage.numbers()
        self._line(f"{name}: done in {clock(stage.seconds())}" + (f" · {numbers}" if numbers else ""))

    def reused(self, name: str, note: str) -> None:
        """Mark a stage whose result was there already; ``note`` says from where."""
        self._get(name).end("reused", note)
        self._line(f"{name}: reused · {note}")

    def say(self, text: str) -> None:
        """Show a line that is no number of a stage: a notice, above the display when there is one."""
        elapsed = clock(self.now() - self._started)
        # No markup and no wrapping: these lines are read by grep as often as by people.
        self._console.print(f"[{elapsed:>6}] {text}", markup=False, highlight=False, soft_wrap=True)

    def wall_s(self) -> dict[str, float]:
        """Seconds by stage, for the summary: the stages that ran or were reused."""
        return {s.name: round(s.seconds(), 3) for s in self.stages.values() if s.state != "waiting"}

    def changed(self, stage: Stage) -> None:
        """A stage has new numbers (called by ``Stage.update``)."""
        if self._live is not None or self.now() - self._last_line < self._plain_every_s:
            return
        self._last_line = self.now()
        at = f"{stage.step}/{stage.total}" if stage.total else str(stage.step)
        left = stage.seconds_left()
        parts = [f"{stage.name} {at}", stage.numbers(), f"{clock(left)} left" if left is not None else ""]
        self._line(" · ".join(part for part in parts if part))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for stage in self.stages.values():
            took = clock(stage.seconds()) if stage.state != "waiting" else ""
            text = stage.numbers() if stage.state in ("done", "reused", "failed") else ""
            style = _STYLES[stage.state]
            grid.add_row(Text(_SIGNS[stage.state], style), Text(stage.name, style), took, Text(text, "dim"))
        yield grid
        for stage in self.stages.values():
            if stage.state == "running":
                yield from self._current(stage, options)

    def _current(self, stage: Stage, options: ConsoleOptions) -> Iterator[Table | Text]:
        bar = Table.grid(padding=(0, 1))
        at = f"{stage.step}/{stage.total}" if stage.total else f"step {stage.step}"
        left = stage.seconds_left()
        bar.add_row(
            " ",
            ProgressBar(total=stage.total, completed=stage.step, width=min(40, options.max_width // 3)),
            at,
            f"{clock(left)} left" if left is not None else "",
        )
        yield bar
        numbers = stage.numbers()
        if numbers:
            yield Text(f"  {numbers}", overflow="ellipsis", no_wrap=True)

    def _get(self, name: str) -> Stage:
        return self.stages.setdefault(name, Stage(name, self))

    def _line(self, text: str) -> None:
        if self._live is None:
            self.say(text)
