"""Learners of several ranks in processes of their own, over gloo on the loopback; what each did comes back in a file.

python rank_processes.py     # lines of stdin: path of a pickled Job, tab, rank
"""

from __future__ import annotations

import atexit
import pickle
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

HOST = "127.0.0.1"
TIMEOUT_S = 120.0


@dataclass
class Case:
    """One learner: ``policy`` is a directory; ``batches`` are trained one after the other."""

    policy: Path
    batches: list[list[Any]]
    objective: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    replay: dict[str, Any] = field(default_factory=dict)
    start: Path | None = None  # a checkpoint to go on from
    save: Path | None = None  # where to write one
    beside: Path | None = None  # where to write the same once more, while the first batch is trained again
    accumulate: bool = False  # group by group instead of whole
    export: Path | None = None  # where to write the policy as users get it


@dataclass
class Lesson:
    """One supervised trainer: ``policy`` for ``build_policy``; ``batches`` of examples are trained one after the other,
    the last with attention ``then``; and measured."""

    policy: dict[str, Any]
    batches: list[list[Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    means: dict[str, Any] = field(default_factory=dict)
    then: str | None = None
    save: Path | None = None


@dataclass
class Job:
    size: int
    shards: int
    experts: int
    context: int
    cases: list[Case] | list[Lesson]
    folder: Path
    host: str = HOST
    port: int = 0


def learn(case: Case, folder: Path, ranks: Any = None) -> dict[str, Any]:
    """What the learner of ``case`` comes to: gradients [P] and metrics of every batch, and its weights afterwards."""
    from rl.learner.checkpoint import load_checkpoint, save_checkpoint, snapshot, write_snapshot
    from rl.learner.config import LearnerConfig, LoraConfig, ReplayConfig
    from rl.learner.learner import Learner
    from rl.objective.config import ObjectiveConfig
    from rl.policy.loading import load_policy
    from rl.policy.sharding import local

    settings = {"lr": 1e-3, "threads": 1, "max_tokens_per_microbatch": 64} | case.settings
    if "lora" in settings:
        settings["lora"] = LoraConfig(**settings["lora"])
    learner = Learner(
        load_policy(case.policy, empty=ranks is not None and ranks.rank > 0), LearnerConfig(**settings),
        ObjectiveConfig(**case.objective), folder,
        replay=ReplayConfig(**case.replay), ranks=ranks,
    )  # fmt: skip
    if case.start is not None:
        load_checkpoint(case.start, learner)
    gradients = spy_on(learner.optimizer)
    metrics = []
    for groups in case.batches:
        if case.accumulate:
            for group in groups:
                learner.accumulate([group])
            metrics.append(learner.finish([group.id for group in groups]))
        else:
            metrics.append(learner.step(groups))
    held = list(learner.policy.named_parameters())
    held += [(n, v) for e in learner.optimizer.adamw.state.values() for n, v in e.items() if n != "step"]
    resting = sum(local(value).numel() * value.element_size() for _, value in held)
    tokens = list(range(3, 31))
    probe = learner.probe(tokens)
    if case.save is not None:
        save_checkpoint(case.save, learner, len(case.batches))
    if case.beside is not None:
        with ThreadPoolExecutor(1) as writer:
            taken = snapshot(learner, len(case.batches), copied=True)
            writing = writer.submit(write_snapshot, case.beside, taken)
            learner.step([replace(group, version=learner.version) for group in case.batches[0]])
            writing.result(TIMEOUT_S)
    if case.export is not None:
        learner.compute.save(case.export)
    weights = {k: torch.as_tensor(v) for k, v in (learner.base_weights() | learner.weights()).items()}
    return {
        "gradients": gradients,
        "metrics": metrics,
        "weights": weights,
        "probe": probe,
        "version": learner.version,
        "resting": resting,
    }


def teach(case: Lesson, ranks: Any = None) -> dict[str, Any]:
    """What the trainer of ``case`` comes to: gradients [P] and metrics of every batch, scores, figures, weights."""
    from rl.learner.config import MeansConfig, SFTConfig
    from rl.learner.sft import SFTTrainer
    from rl.policy.loading import build_policy
    from rl.policy.sharding import gather

    policy = build_policy(case.policy, empty=ranks is not None and ranks.rank > 0)
    settings = {"lr": 1e-3, "warmup_steps": 1, "total_steps": 10, "max_tokens_per_microbatch": 64} | case.settings
    trainer = SFTTrainer(policy, SFTConfig(**settings), MeansConfig(**case.means), ranks)
    gradients, metrics = spy_on(trainer.optimizer), []
    for n, examples in enumerate(case.batches):
        if case.then and n + 1 == len(case.batches):
            trainer.set_mode(case.then)  # type: ignore[arg-type]
        metrics.append(trainer.step(examples))
    scores = trainer.evaluate(case.batches[0])
    metrics.append(trainer.step(case.batches[0]))  # what an evaluation leaves gathered would show here
    if case.save is not None:
        trainer.save(case.save)
    return {
        "gradients": gradients,
        "metrics": metrics,
        "scores": scores,
        "figures": trainer.figures(),
        "weights": gather(trainer.policy.weights()),
    }


def spy_on(optimizer: Any) -> list[torch.Tensor]:
    """The whole gradient [P] of every step that ``optimizer`` will make, as it makes them."""
    from rl.policy.sharding import whole

    gradients: list[torch.Tensor] = []
    step = optimizer.step

    def spy(loss: float) -> dict[str, float]:
        grads = [whole(p.grad) for p in optimizer.parameters if p.grad is not None]
        gradients.append(torch.cat([g.float().flatten() for g in grads]))
        outcome: dict[str, float] = step(loss)
        return outcome

    optimizer.step = spy
    return gradients


def run_ranks(
    size: int, shards: int, cases: list[Case] | list[Lesson], folder: Path, experts: int = 1, context: int = 1
) -> list[list[dict[str, Any]]]:
    """``learn`` or ``teach`` of all cases by every rank: results by rank. Raises RuntimeError with what a rank said
    last."""
    from rl.policy.meeting import open_meeting

    meeting = open_meeting(HOST, size, TIMEOUT_S)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.pkl"
    path.write_bytes(pickle.dumps(Job(size, shards, experts, context, cases, folder, port=meeting.port)))
    while len(_waiting) < size:
        _waiting.append(_start())
    for rank, process in enumerate(_waiting[:size]):
        assert process.stdin is not None
        process.stdin.write(f"{path}\t{rank}\n")
        process.stdin.flush()
    files = [folder / f"rank{rank}.pt" for rank in range(size)]
    until = time.monotonic() + 4 * TIMEOUT_S
    while not all(file.exists() for file in files) and time.monotonic() < until:
        if any(process.poll() is not None for process in _waiting[:size]):
            break
        time.sleep(0.02)
    if missing := [n for n, file in enumerate(files) if not file.exists()]:
        said = [f"rank {n}: {_said(_waiting[n])}" for n in missing]
        end_ranks()
        raise RuntimeError("\n".join(said))
    return [torch.load(file, weights_only=False) for file in files]


# Processes that have loaded torch and wait for their next job: a start takes longer than most jobs.
_waiting: list[subprocess.Popen[str]] = []


def _start() -> subprocess.Popen[str]:
    own = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stderr=own, text=True)
    process.said = own  # type: ignore[attr-defined]
    return process


def _said(process: Any) -> str:
    process.said.seek(0)
    text: str = process.said.read()
    return text[-6000:]


@atexit.register
def end_ranks() -> None:
    """End the processes that wait."""
    for process in _waiting:
        process.kill()
        process.wait()
    _waiting.clear()


def main() -> None:
    """Jobs from stdin until it ends: path and rank."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    torch.set_num_threads(1)
    for line in sys.stdin:
        path, rank = line.rstrip("\n").split("\t")
        work(path, int(rank))


def work(path: str, rank: int) -> None:
    from rl.learner.ranks import Place, Ranks
    from rl.policy.meeting import enter_meeting

    job: Job = pickle.loads(Path(path).read_bytes())
    store = enter_meeting(job.host, job.port, job.size, TIMEOUT_S)
    ranks = Ranks(Place(rank, job.size, job.shards, job.experts, job.context), store, job.host, TIMEOUT_S)
    results = [
        teach(case, ranks) if isinstance(case, Lesson) else learn(case, job.folder / f"run{rank}", ranks)
        for case in job.cases
    ]
    dist.destroy_process_group()
    torch.save(results, job.folder / f"part{rank}.pt")
    (job.folder / f"part{rank}.pt").rename(job.folder / f"rank{rank}.pt")


if __name__ == "__main__":
    # Pickles name this module as tests import it.
    sys.modules["rank_processes"] = sys.modules["__main__"]
    main()
