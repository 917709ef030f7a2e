"""What the tests of whole runs share: minute settings, the console script in its own process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rl.tracking.rundir import RunDir

BIN = Path(sys.executable).parent
THREADS = ("coldstart.threads=1", "rollout.threads=1", "learner.threads=1", "base.threads=1")
# A base policy in seconds. It knows nothing: these tests are about the machinery.
SCRATCH = (
    "base=scratch", "base.dense_steps=20", "base.sparse_steps=10", "base.corpus.demos=64", "base.corpus.drills=64",
    "base.tokens_per_step=1024", "base.vocab_size=1024",
)  # fmt: skip
SMALL = (
    *THREADS, "prompts_per_step=4", "group_size=2", "coldstart.demos=32", "coldstart.epochs=1", "eval.n_tasks=1",
    "eval.k=2", "rollout.max_turns=2", "rollout.max_tokens=32", "rollout.max_concurrency=8", "rollout.kv_cache_gib=0.1",
    "tracking.plain_every_s=0.01",
    # So weak a policy often earns the same reward in every rollout of a step: all tokens are to count all the same.
    "learner.skip_zero_advantage=false",
)  # fmt: skip

AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


class Command:
    """A console script in a process group of its own, its output in a file."""

    def __init__(self, name: str, *overrides: str, cwd: Path, **variables: str) -> None:
        self.log = cwd / f"{name}-{time.monotonic_ns()}.log"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "HYDRA_FULL_ERROR": "1"} | variables
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(BIN / name), *overrides], cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait(self, seconds: float = 800) -> str:
        """Its output, once it has ended well."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.output}") from None
        assert code == 0, self.output
        return self.output

    def wait_until(self, condition: Callable[[], bool], seconds: float = 800) -> None:
        ends = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended too early:\n{self.output}"
            assert time.monotonic() < ends, f"waited {seconds} s:\n{self.output}"
            time.sleep(0.01)

    def kill(self) -> list[psutil.Process]:
        """SIGKILL to the whole group. Returns the descendants it had (Ray's among them are in other groups)."""
        descendants = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return descendants


def reap(processes: list[psutil.Process], seconds: float, agents: bool = False) -> list[str]:
    """Names of those that are still alive after ``seconds``; they are killed then.

    ``agents``: wait for Ray's agents too. Beside a killed raylet they report its end to a GCS that is gone for 60 s,
    a number in Ray's code; one test waits for them, for the others they are ended at once.
    """
    if not agents:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(word in " ".join(process.cmdline()) for word in AGENTS):
                    process.kill()
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    names = []
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(process.name())
            process.kill()
    return names


def train_config(*overrides: str) -> Any:
    """The typed configuration that ``rl-train`` makes of ``overrides``."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from configs.schema import register

    register()
    with initialize_config_module("configs", version_base="1.3"):
        return OmegaConf.to_object(compose("train", list(overrides)))


@dataclass(frozen=True)
class FirstRun:
    """``rl-train base=scratch`` with all four families, from nothing to the report."""

    cwd: Path
    overrides: tuple[str, ...]
    output: str
    run: RunDir

    @property
    def base(self) -> Path:
        """The base policy it has made."""
        (directory,) = (self.cwd / "cache").glob("base-*")
        return directory
