"""``envs-build``: make a data set of verified tasks, of one family or of DeepSeek-V3.2's mix of four.

    envs-build family=search n=50275 out=data/search           the hard tier (from real material)
    envs-build family=search tier=easy n=1000 out=data/easy two_hop=0.5
    envs-build family=my_module.MyTaskset n=500 out=data/mine
    envs-build mix=v32 out=data/v32 share=0.01                 V3.2's four families, scaled
    rl-train env=built env.path=data/search

Every task is solved by its oracle before it is kept, no two have the same key, and what was rejected is counted by
reason on the data set's card (``out/README.md``). The result depends on these words alone, not on ``workers`` (nor
on the machine, unless ``build_s`` ends it);
a build that was stopped or killed goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from envs.built import BuiltTaskset
from envs.certificate.shelf import FOLDER, find
from envs.check import certify, parse_settings, run_checks
from envs.factory.builder import Report, build
from envs.factory.plan import MIXES, SPLITS, Plan, plan_of
from envs.factory.store import CARD, BuildError, Record, Store
from envs.families import HARD
from envs.promises import Subject
from envs.taskset import Split

STEP_S = 60.0  # seconds that a turn may take, as in rollouts (rollout.step_s)
PLAIN_EVERY_S = 10.0  # between two lines when the output is no terminal

WORDS = f"""words:
  family=NAME     what to build: {", ".join(HARD)} (their hard tiers), another short
                  name, or package.module.ClassName
  tier=hard       hard or easy: which tier of those four ({", ".join(f"{k} is {v}" for k, v in HARD.items())})
  n=1000          how many tasks
  mix=NAME        instead of family and n: {", ".join(MIXES)}
                  (v32: {", ".join(f"{family} {n:,}" for family, n in MIXES["v32"].items())})
  share=1.0       scales a mix
  out=FOLDER      where to write; what is there already goes on
  split=both      train, heldout or both
  heldout=N       held-out tasks when both are built (default: n / 20, at most 500)
  workers=N       processes (default: one per core; 0: in this process)
  seed=0          other tasks of the same family
  keep=PATH       package.module.function(task, taskset) that gives None to keep a task, or one word for why not
  keep_settings={{}}  its further keywords, as JSON
  verify_s=300    seconds that one task may take to be made or verified
  patience=2000   candidates in a row without a new task, after which the family has run out
  build_s=0       seconds of building after which a split ends with what it has; 0: as long as it takes.
                  With more seconds the same command goes on
  certify=20      tasks that the checks of envs-check look at, for the certificate beside the data; 0: none is made
  certificates={FOLDER}  where it is written when it cannot lie beside the data
Every other word is a keyword of the taskset; of a mix: settings={{"search": {{...}}}}."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="envs-build", description=__doc__, epilog=WORDS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", metavar="key=value")
    words = list(parser.parse_args(argv).words)
    sys.path.insert(0, "")  # a module in the current folder, also through the console script
    try:
        options = parse_settings(words)
        out, workers = options.pop("out", None), int(options.pop("workers", os.cpu_count() or 1))
        if out is None:
            raise ValueError("out is missing: say where to write, out=data/search")
        if workers < 0:
            raise ValueError(f"workers={workers}: must be at least 0")
        certified, folder = int(options.pop("certify", 20)), Path(str(options.pop("certificates", FOLDER)))
        if certified < 0:
            raise ValueError(f"certify={certified}: must be at least 0")
        plan = plan_of(options)
    except (ValueError, TypeError) as error:
        print(f"envs-build: {error}", file=sys.stderr)
        return 2
    command = shlex.join(["envs-build", *(word for word in words if not word.startswith("workers="))])
    try:
        with _display(plan, Path(str(out))) as report:
            store = build(plan, Path(str(out)), workers, command, report)
    except BuildError as error:
        print(f"envs-build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("envs-build: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    _print(plan, store)
    if certified:
        print(_certify(store, folder, certified, command))
    return 0


def _certify(store: Store, folder: Path, tasks: int, command: str) -> str:
    """Look at the finished data set as whoever trains on it will, unless that was done; what became of it."""
    splits: list[Split] = [split for split in SPLITS["both"] if (store.out / split).is_dir()]
    path = str(store.out)
    if (found := find(BuiltTaskset(splits[0], path=path), folder)).state == "valid":
        return f"certificate, valid: {found.path}"
    made = partial(BuiltTaskset, path=path)
    subject = Subject(made, tasks, STEP_S, ("built", {"path": path}), splits)
    return "\n".join(certify(run_checks(subject), folder, {}, command)[0])


def _print(plan: Plan, store: Store) -> None:
    for part, record in zip(plan.parts, store.records, strict=True):
        rate = f", {record.kept / record.seconds:,.1f} tasks/s" if record.seconds else ""
        print(f"{_title(plan, part.source, part.split)}: {record.kept:,} tasks{rate}{_rejects(record)}")
        if record.ran_out:
            print(f"  ran out: {record.ran_out}")
    print(f"{store.out}: the card is {store.out / CARD}; train on it with env=built env.path={store.out}")


def _title(plan: Plan, source: int, split: str) -> str:
    return f"{plan.sources[source].name}, {split}"


def _rejects(record: Record) -> str:
    counts = sorted(record.rejects.items(), key=lambda item: (-item[1], item[0]))
    return " · rejects: " + ", ".join(f"{name} {n:,}" for name, n in counts[:6]) if counts else ""


@contextmanager
def _display(plan: Plan, out: Path) -> Iterator[Report]:
    """A progress bar on a terminal, plain lines elsewhere."""
    from rich.console import Console

    console = Console()
    with _bar(plan, console) if console.is_terminal else _lines(plan) as report:
        yield report


@contextmanager
def _bar(plan: Plan, console: object) -> Iterator[Report]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    assert isinstance(console, Console)
    columns = (
        TextColumn("verified tasks of {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rejects]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        bars: dict[int, tuple[TaskID, float, int]] = {}  # the bar of a part, when it began here, and with how many

        def report(number: int, record: Record) -> None:
            part = plan.parts[number]
            if number not in bars:
                title = escape(_title(plan, part.source, part.split))
                bar = progress.add_task(title, total=part.wanted, completed=record.kept, rate="", rejects="")
                bars[number] = (bar, time.monotonic(), record.kept)
            bar, began, before = bars[number]
            rate = (record.kept - before) / max(time.monotonic() - began, 1e-9)
            total = record.kept if record.ran_out else part.wanted
            text = f"{rate:,.1f} tasks/s"
            progress.update(bar, completed=record.kept, total=total, rate=text, rejects=escape(_rejects(record)))

        yield report


@contextmanager
def _lines(plan: Plan) -> Iterator[Report]:
    last: dict[int, tuple[float, int]] = {}  # when the last line of a part was written, and how many it said

    def report(number: int, record: Record) -> None:
        part, now = plan.parts[number], time.monotonic()
        if record.done or (number in last and now - last[number][0] < PLAIN_EVERY_S):
            return
        line = f"{_title(plan, part.source, part.split)}: {record.kept:,}/{part.wanted:,} verified tasks"
        if number in last:
            rate = (record.kept - last[number][1]) / (now - last[number][0])
            line += f" · {rate:,.1f} tasks/s"
            line += f" · {(part.wanted - record.kept) / rate:,.0f} s left" if rate > 0 else ""
        print(line + _rejects(record), flush=True)
        last[number] = (now, record.kept)

    yield report


if __name__ == "__main__":
    sys.exit(main())
