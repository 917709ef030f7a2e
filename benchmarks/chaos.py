"""Kills at random points of a small run, which is resumed each time: does it lose a group, or train one twice?

    python -m benchmarks.chaos                       50 kills into runs/chaos
    python -m benchmarks.chaos --kills 6 --seed 1    a quick look

One run of `rl-train deterministic=true`. Victims are dealt like cards (driver, learner, a rollout worker with its
engine, Ray's raylet or its GCS, by SIGKILL; the driver, or all processes at once as Slurm does it, by SIGTERM; "full
disk": from then on no file of driver and learner may grow, by a limit on their processes), a moment is drawn: while the
run starts, or within seconds of a group's end. Every fourth start has a slow disk: each fsync and rename of its
processes takes 0.2 s longer (by strace, which has to be there). When the run is over, `rl-train resume=` goes on; a
killed worker is replaced inside the run. After each end the finished groups in the run's folder are read. At the end
the books are compared with what the whole run has trained:

- *lost*: a group that was finished and on disk at an end, and is not trained on with the very tokens it had then;
- *trained twice*, *left out*: a number of a group that is in two steps of the run, or in none;
- *tasks*: whether the tasks are those of an undisturbed run, in its order;
- *weights*: whether the final ones are those of an undisturbed run with the same settings, bit for bit.

The books are kept after every kill: called again, it goes on where it was. Prints a table and writes ``chaos.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import resource
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
SMALL_FILE = 2048  # bytes: the size no file of a victim of `full disk` may pass
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
    if kind == FULL:
        for process in [driver, *victims(driver, LEARNER)]:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (SMALL_FILE, resource.RLIM_INFINITY))
        return True
    there = victims(driver, kind)
    for process in there:
        process.kill()
    return bool(there)


class Chaos:
    """The run ``name`` in ``out``, and its books."""

    def __init__(self, out: Path, name: str, steps: int, seed: int) -> None:
        self.out, self.name, self.steps = out, name, steps
        self.run, self.log, self.kept = out / name, out / f"{name}.log", out / f"{name}.json"
        self.books = Books.from_json(json.loads(self.kept.read_text())) if self.kept.exists() else Books()
        self.random = random.Random(seed + 1000 * len(self.books.kills))
        self.deck: list[str] = []
        self.slow = False

    def start(self) -> subprocess.Popen[bytes]:
        arguments = [f"resume={self.name}"] if self.run.is_dir() else self.settings(self.name)
        self.books.starts += 1
        self.slow = self.books.starts % SLOW_EVERY == 0 and shutil.which("strace") is not None
        prefix: list[str] = []
        if self.slow:  # -D: the driver stays our child
            delay = f"inject={SLOW}:delay_exit={SLOW_MS * 1000}"
            prefix = ["strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={SLOW}", "-e", delay]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*prefix, *self.command(), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def settings(self, name: str) -> list[str]:
        return [f"name={name}", *SETTINGS, f"steps={self.steps}", f"cache_dir={self.out / 'cache'}"]

    def command(self) -> list[str]:
        return [sys.executable, "-m", "rl.commands.train", f"runs_dir={self.out}"]

    def calm(self) -> dict[str, str]:
        """Digests of the final weights of the same run without a kill."""
        name = f"{self.name}-calm"
        if not finished(self.out / name):
            arguments = [f"resume={name}"] if (self.out / name).is_dir() else self.settings(name)
            with (self.out / f"{name}.log").open("ab") as log:
                subprocess.run([*self.command(), *arguments], stdout=log, stderr=log, check=True)
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
        if not self.deck:
            self.deck = self.random.sample(VICTIMS, len(VICTIMS))
        early = self.random.random() < EARLY
        kind = self.deck[-1]
        delay = self.random.uniform(0, STARTS_S if early else BURST_S)
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
        if not strike(psutil.Process(process.pid), kind):
            return
        self.deck.pop()
        self.books.kills.append(kill)
        if kind == WORKER:
            return
        try:
            kill.exit_code = process.wait(ENDS_S if kind != FULL else DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.books.faults.append(f"still there {ENDS_S:g} s after the end of the {kind}")
            process.kill()
            process.wait()
        kill.ended_s = round(time.monotonic() - began, 1)
        kill.on_disk = look(self.run, self.books)

    def go(self, kills: int, say: Callable[[str], None] = print) -> None:
        """All kills, then the rest of the run undisturbed."""
        process = self.start()
        while len(self.books.kills) < kills and not finished(self.run):
            if process.poll() is not None:
                process = self.start()
            before = len(self.books.kills)
            self.one(process)
            if len(self.books.kills) > before:
                kill = self.books.kills[-1]
                write_atomic(self.kept, json.dumps(self.books.to_json()) + "\n")
                say(f"{len(self.books.kills)}: {kill.victim} at step {kill.step}, {kill.on_disk} groups on disk")
        while not finished(self.run):
            if process.poll() is None:
                process.wait(DEADLINE_S)
            else:
                process = self.start()
                if process.wait(DEADLINE_S) != 0:
                    self.books.faults.append("the undisturbed rest of the run failed")
                    return
        process.wait(DEADLINE_S)

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
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, help="GRPO steps of the run (default: 3 for each kill)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    chaos = Chaos(args.out.resolve(), f"chaos-{args.seed}", args.steps or 3 * args.kills, args.seed)
    chaos.go(args.kills, lambda sentence: print(sentence, flush=True))
    verdict = chaos.judge()
    rows = table(chaos.books.kills)
    (args.out / "chaos.md").write_text(markdown(HEAD, rows))
    print(markdown(HEAD, rows))
    print("\n".join(f"{name}: {value}" for name, value in verdict.items()))
    sound = not any(verdict[name] for name in ("lost", "trained twice", "left out", "faults"))
    sys.exit(0 if sound and (verdict["tasks"], verdict["weights"]) == ("in order", "equal") else 1)


if __name__ == "__main__":
    main()
