"""Kills at random points of small runs, which are resumed each time: do they lose a group, or train one twice?

    python -m benchmarks.chaos                                 8 runs, up to 10 kills each, into runs/chaos
    python -m benchmarks.chaos --seeds 7 --kills 3 --steps 9   a quick look
    python -m benchmarks.chaos --minutes 10                    a slice of it; called again, it goes on where it was

Runs of `rl-train deterministic=true`. Victims are dealt like cards (driver, learner, a rollout worker with its engine,
Ray's raylet or its GCS, by SIGKILL; the driver, or all processes at once as Slurm does it, by SIGTERM; "full disk":
the file system of the run's folder, a tmpfs of its own, is filled to the last byte), a moment is drawn: while the run
starts, or within seconds of a group's end. Every fourth start has a slow disk: each fsync and rename of its processes
takes 0.2 s longer (by strace, which has to be there). When the run is over, the disk is emptied and `rl-train resume=`
goes on; a killed worker is replaced inside the run, unless its engine still starts. After each end the finished groups
in the run's folder are read. At the end the books are compared with what the whole run has trained:

- *lost*: a group that was finished and on disk at an end, and is not trained on with the very tokens it had then;
- *trained twice*, *left out*: a number of a group that is in two steps of the run, or in none;
- *tasks*: whether the tasks are those of an undisturbed run, in its order;
- *weights*: whether the final ones are those of an undisturbed run with the same settings, bit for bit.

Without the right to mount no disk gets full, without strace none is slow, and the first line says so. Prints a table
and writes ``chaos.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.runs import finished, markdown
from rl.run.finished import FOLDER, decoded, stored
from rl.tracking.rundir import RunDir, write_atomic

PROMPTS, EVERY = 2, 3
# Cold start and evaluation are small: what is tested is the loop. Few tokens, so that a step takes about a second.
SETTINGS = (
    "experiment=smoke", "env=search", f"prompts_per_step={PROMPTS}", "deterministic=true", "max_staleness=0",
    f"checkpoint_every={EVERY}", "rollout.workers=1", "rollout.max_restarts=1000", "rollout.max_tokens=32",
    "rollout.max_turns=2", "tracking.wandb=disabled", "tracking.save_batch_every=0", "coldstart.enabled=false",
)  # fmt: skip
DRIVER, TERM, ALL, LEARNER, WORKER, RAYLET, GCS, FULL = (
    "driver", "driver, SIGTERM", "all, SIGTERM", "learner", "worker", "raylet", "GCS", "full disk",
)  # fmt: skip
PROCESS = {LEARNER: "ray::LearnerProcess", WORKER: "ray::RolloutWorker", RAYLET: "raylet", GCS: "gcs_server"}
VICTIMS = (DRIVER, DRIVER, TERM, ALL, LEARNER, WORKER, WORKER, RAYLET, GCS, FULL)
EARLY = 0.15  # share of the kills that come while the run starts
SLOW_EVERY, SLOW_MS = 4, 200  # the disk of every so manieth start is slow, by so much an operation
SLOW = "fsync,fdatasync,rename,renameat,renameat2"
STARTS_S, BURST_S = 20.0, 5.0  # those within so many seconds of its start; the others after a group has ended
DEADLINE_S, ENDS_S = 600.0, 120.0  # a run that makes no progress, or does not end, for so long is a fault of ours
FAULTS = 3  # as many end the bench
DISK_MB = 512  # of the file system that `full disk` fills
HEAD = ("victim", "kills", "of them at the start", "with a slow disk", "groups on disk", "exit codes", "s to the end")


@dataclass
class Kill:
    """One of them, and what was there when the run had ended by it (a worker's death does not end it)."""

    victim: str
    early: bool
    step: int  # the last one logged then
    slow: bool = False  # the disk
    exit_code: int | None = None
    ended_s: float | None = None  # from the kill to the end
    on_disk: int = 0  # finished groups


@dataclass
class Books:
    """What was seen on disk, and what is wrong with the whole."""

    kills: list[Kill] = field(default_factory=list)
    seen: dict[int, set[str]] = field(default_factory=dict)  # group → digests of its tokens, over all ends
    faults: list[str] = field(default_factory=list)
    starts: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seen": {str(number): sorted(found) for number, found in self.seen.items()}}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Books:
        seen = {int(number): set(found) for number, found in stored["seen"].items()}
        return cls([Kill(**kill) for kill in stored["kills"]], seen, stored["faults"], stored["starts"])


def digest(tokens: Sequence[Sequence[int]]) -> str:
    return hashlib.sha256(json.dumps([[int(t) for t in segment] for segment in tokens]).encode()).hexdigest()


def look(run: Path, books: Books) -> int:
    """Enter the finished groups on disk; returns their number."""
    found = stored(run / FOLDER)
    for number, path in found.items():
        group, _ = decoded(path.read_bytes())
        tokens = [np.asarray(s.tokens).tolist() for t in group.trajectories for s in t.segments]
        books.seen.setdefault(number, set()).add(digest(tokens))
    return len(found)


def step_of(run: Path) -> int:
    with contextlib.suppress(OSError):
        return max((row["step"] for row in RunDir(run, make=False).read_metrics("grpo")), default=0)
    return 0


def activity(run: Path) -> tuple[float, int]:
    """Changes whenever a group ends or a step is logged."""
    folder, metrics = run / FOLDER, run / "metrics.jsonl"
    when = folder.stat().st_mtime if folder.is_dir() else 0.0
    return when, metrics.stat().st_size if metrics.exists() else 0


def victims(driver: psutil.Process, kind: str) -> list[psutil.Process]:
    found = []
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            title = process.cmdline()
            if title and (title[0].startswith(PROCESS[kind]) or Path(title[0]).name == PROCESS[kind]):
                found.append(process)
    return found


def strike(driver: psutil.Process, kind: str) -> bool:
    """Whether there was somebody to hit."""
    if kind in (DRIVER, TERM):
        driver.send_signal(signal.SIGKILL if kind == DRIVER else signal.SIGTERM)
        return True
    if kind == ALL:
        for process in [driver, *driver.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        return True
    there = victims(driver, kind)
    for process in there:
        process.kill()
    return bool(there)


def loud(sentence: str) -> None:
    print(sentence, flush=True)


def small_disk(place: Path) -> bool:
    """Whether ``place`` is a small file system of its own, mounted now unless it is there: that takes a right."""
    place.mkdir(parents=True, exist_ok=True)
    if place.is_mount():
        return True
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True).returncode == 0


def fill(file: Path) -> None:
    """Grow ``file`` until its file system has no room."""
    with file.open("wb", buffering=0) as filler:
        for size in (2**20, 4096, 1):
            try:
                while filler.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


class Chaos:
    """The run ``name``, whose folder is in ``disk``, and its books in ``out``.

    ``fills``: whether ``disk`` is small enough to be filled; no disk gets full otherwise.
    """

    def __init__(self, out: Path, name: str, steps: int, seed: int, disk: Path, *, fills: bool) -> None:
        self.out, self.name, self.steps, self.seed, self.disk = out, name, steps, seed, disk
        self.run, self.log, self.kept = disk / name, out / f"{name}.log", out / f"{name}.json"
        self.books = Books.from_json(json.loads(self.kept.read_text())) if self.kept.exists() else Books()
        self.filler = disk / f"{name}.filler"
        self.kinds = [kind for kind in VICTIMS if fills or kind != FULL]
        self.slow = False
        self.fresh = True  # nothing was killed since the last start
        self.struck = False  # the driver that runs, or has just ended, ends by a kill

    def draw(self) -> tuple[str, bool, float]:
        """The next victim, whether it dies while the run starts, and seconds to wait: the same whenever asked."""
        number = len(self.books.kills)
        deck = random.Random(f"{self.seed} deck {number // len(self.kinds)}").sample(self.kinds, len(self.kinds))
        by_number = random.Random(f"{self.seed} kill {number}")
        early = by_number.random() < EARLY and self.fresh
        return deck[number % len(deck)], early, by_number.uniform(0, STARTS_S if early else BURST_S)

    def start(self) -> subprocess.Popen[bytes]:
        there = (self.run / "config.yaml").exists()
        if self.run.is_dir() and not there:  # killed before it was a run
            shutil.rmtree(self.run)
        arguments = [f"resume={self.name}"] if there else self.settings(self.name)
        self.books.starts += 1
        self.struck, self.fresh = False, True
        self.slow = self.books.starts % SLOW_EVERY == 0 and shutil.which("strace") is not None
        prefix: list[str] = []
        if self.slow:  # -D: the driver stays our child
            delay = f"inject={SLOW}:delay_exit={SLOW_MS * 1000}"
            prefix = ["strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={SLOW}", "-e", delay]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*prefix, *self.command(self.disk), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def settings(self, name: str) -> list[str]:
        return [f"name={name}", *SETTINGS, f"steps={self.steps}", f"cache_dir={self.out / 'cache'}"]

    def command(self, runs: Path) -> list[str]:
        return [sys.executable, "-m", "rl.commands.train", f"runs_dir={runs}"]

    def calm(self) -> dict[str, str]:
        """Digests of the final weights of the same run without a kill, which all seeds share."""
        name = f"calm-{self.steps}"
        if not finished(self.out / name):
            if (self.out / name).is_dir():  # stopped on its way: it was disturbed
                shutil.rmtree(self.out / name)
            with (self.out / f"{name}.log").open("ab") as log:
                subprocess.run([*self.command(self.out), *self.settings(name)], stdout=log, stderr=log, check=True)
        return weights(self.out / name)

    def wait(self, process: subprocess.Popen[bytes], condition: Callable[[], bool], seconds: float) -> bool:
        """Whether ``condition`` came true before the process ended or the time was over."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and process.poll() is None:
            if condition():
                return True
            time.sleep(0.02)
        return False

    def one(self, process: subprocess.Popen[bytes]) -> None:
        """The next kill in a run that goes on."""
        kind, early, delay = self.draw()
        before = activity(self.run)
        if not early and not self.wait(process, lambda: activity(self.run) != before, DEADLINE_S):
            if process.poll() is None:
                self.books.faults.append(f"nothing happened for {DEADLINE_S:g} s")
                process.kill()
            return
        self.wait(process, lambda: False, delay)
        if process.poll() is not None:
            return
        kill = Kill(kind, early, step_of(self.run), self.slow)
        began = time.monotonic()
        if kind == FULL:
            fill(self.filler)
        elif not strike(psutil.Process(process.pid), kind):
            return
        self.books.kills.append(kill)
        self.fresh = False
        if kind in (WORKER, LEARNER):  # the run goes on
            return
        self.struck = True
        try:
            kill.exit_code = process.wait(ENDS_S if kind != FULL else DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.books.faults.append(f"still there {ENDS_S:g} s after the end of the {kind}")
            process.kill()
            process.wait()
        kill.ended_s = round(time.monotonic() - began, 1)
        self.filler.unlink(missing_ok=True)
        kill.on_disk = look(self.run, self.books)

    def ended_by_itself(self, code: int) -> None:
        """A run stops when a worker dies whose engine starts, or a learner outside GRPO; no other end is in order."""
        last = self.books.kills[-1] if self.books.kills else None
        ends = last is not None and (last.victim == LEARNER or (last.victim == WORKER and last.early))
        if last is not None and ends and last.exit_code is None:
            last.exit_code, last.on_disk = code, look(self.run, self.books)
        else:
            self.books.faults.append(f"ended by itself with code {code}; kills before: {len(self.books.kills)}")

    def go(self, kills: int, seconds: float = float("inf"), say: Callable[[str], None] = loud) -> bool:
        """All kills, then the rest of the run undisturbed. False: after so many ``seconds`` there is more to do."""
        self.filler.unlink(missing_ok=True)
        if finished(self.run):
            return True
        ends = time.monotonic() + seconds
        process = self.start()
        while len(self.books.kills) < kills and not finished(self.run):
            if (code := process.poll()) is not None:
                if code and not self.struck:
                    self.ended_by_itself(code)
                if len(self.books.faults) >= FAULTS:
                    return True
                if time.monotonic() > ends:
                    return False
                process = self.start()
            before = len(self.books.kills)
            self.one(process)
            if len(self.books.kills) > before:
                kill = self.books.kills[-1]
                write_atomic(self.kept, json.dumps(self.books.to_json()) + "\n")
                number = f"{self.name}, {len(self.books.kills)}"
                say(f"{number}: {kill.victim} at step {kill.step}, {kill.on_disk} groups on disk")
        while not finished(self.run):
            if process.poll() is None:
                process.wait(DEADLINE_S)
            else:
                process = self.start()
                if process.wait(DEADLINE_S) != 0:
                    self.books.faults.append("the undisturbed rest of the run failed")
                    return True
        process.wait(DEADLINE_S)
        return True

    def judge(self) -> dict[str, Any]:
        """The books against what the whole run has trained on."""
        run = RunDir.existing(self.run)
        trained: Counter[int] = Counter()
        tokens: dict[int, list[Any]] = {}
        tasks: dict[int, str] = {}
        for step in range(1, self.steps + 1):
            rows = run.read_trajectories(f"step_{step:06d}")
            trained.update({int(row["id"].split("-")[1]) for row in rows})
            for row in rows:
                number = int(row["id"].split("-")[1])
                tokens.setdefault(number, []).extend(s["tokens"] for s in row["segments"])
                tasks[number] = row["task_id"]
        wanted = range(self.steps * PROMPTS)
        return {
            "steps": self.steps,
            "groups": len(trained),
            "seen finished at an end": len(self.books.seen),
            "lost": sorted(n for n, seen in self.books.seen.items() if seen != {digest(tokens.get(n, []))}),
            "trained twice": sorted(n for n, times in trained.items() if times > 1),
            "left out": sorted(set(wanted) - set(trained)),
            "tasks": "in order" if all(tasks.get(n, "").endswith(f"/{n}") for n in wanted) else "out of order",
            "skipped": run.read_summary().get("skipped", []),
            "weights": "equal" if weights(self.run) == self.calm() else "differ",
            "faults": self.books.faults,
        }


def weights(run: Path) -> dict[str, str]:
    """SHA-256 of each file of the final policy's weights."""
    files = sorted((run / "policy").glob("*.safetensors"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def table(kills: Sequence[Kill]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(VICTIMS):
        of = [kill for kill in kills if kill.victim == kind]
        codes = Counter(str(kill.exit_code) for kill in of if kill.exit_code is not None)
        shown = ", ".join(f"{code} × {n}" for code, n in sorted(codes.items())) or "–"
        seconds = sorted(k.ended_s for k in of if k.ended_s is not None)
        ended = f"{seconds[0]:g}–{seconds[-1]:g}" if seconds else "replaced inside the run" if of else "–"
        counts = (len(of), sum(k.early for k in of), sum(k.slow for k in of), sum(k.on_disk for k in of))
        rows.append((kind, *map(str, counts), shown, ended))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)), help="a run for each")
    parser.add_argument("--kills", type=int, default=10, help="of each run, if it is not over before")
    parser.add_argument("--steps", type=int, help="GRPO steps of each run (default: 3 for each kill)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * args.minutes
    disk = out / "disk"
    fills = small_disk(disk)
    slow = shutil.which("strace") is not None
    print(f"full disks: {'yes' if fills else 'no (cannot mount)'}; slow disks: {'yes' if slow else 'no (no strace)'}")
    steps = args.steps or 3 * args.kills
    runs = [Chaos(out, f"chaos-{seed}", steps, seed, disk, fills=fills) for seed in args.seeds]
    sound = True
    for chaos in runs:
        if time.monotonic() > ends or not chaos.go(args.kills, ends - time.monotonic()):
            print("there is more to do: call it again")
            sys.exit(2)
        verdict = chaos.judge()
        print(f"{chaos.name}: " + "; ".join(f"{name}: {value}" for name, value in verdict.items()), flush=True)
        sound &= not any(verdict[name] for name in ("lost", "trained twice", "left out", "skipped", "faults"))
        sound &= (verdict["tasks"], verdict["weights"]) == ("in order", "equal")
    shown = markdown(HEAD, table([kill for chaos in runs for kill in chaos.books.kills]))
    (out / "chaos.md").write_text(shown)
    print(shown)
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
