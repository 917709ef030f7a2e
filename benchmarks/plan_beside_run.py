"""What `rl-train plan=true` says of memory beside the peak resident memory of the run's processes.

    python -m benchmarks.plan_beside_run steps=3 eval.n_tasks=4 learner.skip_zero_advantage=false

The words are overrides of rl-train; its run goes to a temporary folder. Resident memory counts the pages of shared
libraries and of Ray's object store in every process that has touched them (VmHWM of /proc).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from rl.commands.hydra import composed
from rl.run.plan_memory import ENGINE, LEARNER
from rl.run.run_plan import plan_of, sizes_of

ROLES = {"ray::LearnerProcess": LEARNER, "ray::RolloutWorker": ENGINE}


def peaks(overrides: list[str]) -> dict[str, float]:
    """GB at the peak of the learner, of the largest rollout worker, and of the driver."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        words = [*overrides, f"runs_dir={folder}/runs", f"cache_dir={folder}/cache"]
        run = subprocess.Popen([Path(sys.executable).parent / "rl-train", *words], stdout=subprocess.DEVNULL)
        me = psutil.Process(run.pid)
        while run.poll() is None:
            for process in [me, *me.children(recursive=True)]:
                try:
                    title = "".join(process.cmdline()[:1])
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except (psutil.Error, OSError):
                    continue
                role = next((r for start, r in ROLES.items() if title.startswith(start)), None)
                role = "driver" if process.pid == run.pid else role
                if role and "VmHWM:" in status:
                    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
                    found[role] = max(found.get(role, 0.0), peak)
            time.sleep(0.5)
        if run.returncode:
            raise SystemExit(f"rl-train ended with {run.returncode}")
    return found


def main() -> int:
    overrides = sys.argv[1:]
    cfg = composed("train", overrides)
    sizes, refused = sizes_of(cfg.policy, cfg.base.source, cfg.base.vocab_size, cfg.base.index_precision)
    plan = plan_of(cfg, sizes, refused)
    measured = peaks(overrides)
    print("| process | planned, GB | measured, GB | of these without the process itself |")
    print("|---|---:|---:|---:|")
    for role, memory in plan.memory.items():
        own = memory.on_device - memory.device["process"]
        print(f"| {role} | {memory.on_device:.2f} | {measured[role]:.2f} | {own:.2f} |")
    print(f"| driver | | {measured['driver']:.2f} | |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
