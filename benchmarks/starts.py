"""What a start costs: `--help`, a start that is refused, a policy that is loaded, and the way from the command to the
first rollout when the cold start is cached.

    python -m benchmarks.starts                          this tree
    python -m benchmarks.starts --against main           beside another version, in turns
    python -m benchmarks.starts --only alone             what starts neither Ray nor an engine

CPU seconds of a command and of every process that it started; wall seconds too, which say something on a machine
without other work alone (the load is printed). The first rollout has begun when an episode's environment is reset in
a worker: the environment of this file writes the time down.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil

from benchmarks.small_policy import markdown

ROOT = Path(__file__).parents[1]
HELP = {"rl-train": "rl.commands.train", "rl-eval": "rl.commands.evaluate", "envs-check": "rl.commands.envs_check"}
# The last thing that is looked at before a run has a folder: every weight has been read by then.
REFUSED = ("learner.lora.rank=2", "learner.lora.modules=[nowhere]")
LOAD = """
from rl.policy.loading import load_policy
from rl.run.paths import resolve
load_policy(resolve("pkg://rl.bases/tiny_dsa_base"))
"""
STAMP = "first_rollout"
ENVIRONMENT = f'''
import sys
from pathlib import Path

from envs.environment import Environment
from envs.taskset import Taskset
from envs.types import Message, Task


class StampEnv(Environment):
    def reset(self):
        if "vllm" in sys.modules:  # a worker's: the driver plays demonstrations before it starts anything
            Path(self.task.metadata["place"], "{STAMP}").touch(exist_ok=True)
        return super().reset()

    def oracle(self, history):
        return Message("assistant", str(self.task.answer), reasoning="I repeat it.")


class StampTaskset(Taskset):
    """Repeat a number."""

    family, env_class = "stamp", StampEnv

    def task(self, index):
        key, number = self.draw(index, lambda r: (str(n := r.randint(0, 10**6)), n))
        prompt = (Message("system", "Repeat it."), Message("user", key))
        return Task(self.task_id(index), self.family, prompt, answer=str(number), metadata={{"place": "PLACE"}})
'''
SETTINGS = ("env._target_=starts_env.StampTaskset", "experiment=smoke", "rollout.max_tokens=16", "steps=1")


def process(tree: Path, code: str, words: Sequence[str], cwd: Path) -> subprocess.Popen[bytes]:
    """Python ``code`` with the sources in ``tree``."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(tree)}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def command(module: str) -> str:
    """What the console script of ``module`` does."""
    return f"import sys; from {module} import main; sys.argv[0] = 'command'; sys.exit(main())"


def cpu_s(tree: Path, code: str, words: Sequence[str], cwd: Path, expected: int = 0) -> float:
    """CPU seconds of a process that ends with the code ``expected``."""
    before = os.times()
    ended = process(tree, code, words, cwd).wait()
    if ended != expected:
        raise RuntimeError(f"{code} {words} in {tree} ended with {ended} instead of {expected}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def first_rollout(tree: Path, cwd: Path, name: str) -> tuple[float, float]:
    """Wall seconds and CPU seconds of all processes, until the first environment is reset. The run is ended there."""
    stamp = cwd / STAMP
    stamp.unlink(missing_ok=True)
    started = time.time()
    running = process(tree, command(HELP["rl-train"]), [*SETTINGS, f"name={name}"], cwd)
    driver, spent = psutil.Process(running.pid), {}
    try:
        while not stamp.exists():
            if running.poll() is not None:
                raise RuntimeError(f"rl-train ended before its first rollout; see {cwd / 'runs'}")
            _cpu(driver, spent)
            time.sleep(0.05)
        _cpu(driver, spent)
        return stamp.stat().st_mtime - started, sum(spent.values())
    finally:
        running.terminate()
        running.wait()


def _cpu(driver: psutil.Process, spent: dict[tuple[int, float], float]) -> None:
    """CPU seconds so far of the driver and of what it has started, into ``spent``."""
    for one in (driver, *driver.children(recursive=True)):
        try:
            times = one.cpu_times()
            spent[one.pid, one.create_time()] = times.user + times.system
        except psutil.Error:
            continue


@contextmanager
def tree_of(ref: str | None) -> Iterator[Path]:
    """The sources of this tree, or those of a git ref."""
    if ref is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "tree"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "-q", "--detach", there, ref], check=True)
        try:
            yield there
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", there], check=True)


def place(folder: Path) -> Path:
    """A folder for the runs of one tree."""
    folder.mkdir()
    (folder / "starts_env.py").write_text(ENVIRONMENT.replace("PLACE", str(folder)))
    return folder


def measure(trees: dict[str, Path], repeats: int, only: str | None) -> dict[str, dict[str, list[float]]]:
    """Samples by what was measured and by tree, in turns."""
    found: dict[str, dict[str, list[float]]] = {}

    def note(what: str, tree: str, value: float) -> None:
        found.setdefault(what, {}).setdefault(tree, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        places = {name: place(Path(folder) / name) for name in trees}
        for _ in range(repeats if only in (None, "alone") else 0):
            for name, tree in trees.items():
                for script, module in HELP.items():
                    note(f"`{script} --help`, CPU s", name, cpu_s(tree, command(module), ["--help"], places[name]))
                refused = cpu_s(tree, command(HELP["rl-train"]), REFUSED, places[name], 2)
                note("a start that is refused at the last, CPU s", name, refused)
                note("a policy loaded in a new process, CPU s", name, cpu_s(tree, LOAD, (), places[name]))
        for number in range(repeats + 1 if only in (None, "rollout") else 0):
            for name, tree in trees.items():
                if number == 0:  # fills the cache
                    ended = process(tree, command(HELP["rl-train"]), [*SETTINGS, "name=first"], places[name]).wait()
                    if ended != 0:
                        raise RuntimeError(f"rl-train of {name} ended with {ended}")
                    continue
                wall, cpu = first_rollout(tree, places[name], f"run-{number}")
                note("command to first rollout, s", name, wall)
                note("the same, CPU s of all processes", name, cpu)
                shutil.rmtree(places[name] / "runs")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REF", help="a git ref to measure beside this tree")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("alone", "rollout"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))  # what was started ends, too
    with tree_of(args.against) as other:
        trees = ({args.against: other} if args.against else {}) | {"this tree": ROOT}
        found = measure(trees, args.repeats, args.only)
    rows = [
        (what, *(f"{median(samples[t]):.2f} ({min(samples[t]):.2f}–{max(samples[t]):.2f})" for t in trees))
        for what, samples in found.items()
    ]
    print(markdown((f"median of {args.repeats} (range)", *trees), rows))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
