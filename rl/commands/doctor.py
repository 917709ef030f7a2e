"""`rl-doctor`: silent faults of a run, finished or going on, or in rollouts of another toolkit.

rl-doctor run=demo                              all detectors on its records: runs/demo/doctor.html
rl-doctor rollouts=theirs.jsonl                 those that read rollouts alone: doctor.html
rl-doctor run=demo attribute=true step=20       also which part makes learner and sampler disagree on a stored batch

The detectors are ``rl.doctor``'s, which the training loop applies to every step too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import DoctorConfig
    from rl.tracking.findings import Examined


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("doctor", run)


def run(cfg: DoctorConfig) -> dict[str, Any]:
    """The whole command; returns the alarms, and the attribution where one was asked for."""
    from rich.console import Console

    from rl.commands.attribute import attribution
    from rl.run.batches import load_batch
    from rl.run.preflight import configuration
    from rl.tracking.findings import examine_file, examine_run, write_page
    from rl.tracking.rundir import RunDir

    console = Console() if sys.stdout.isatty() else Console(width=180)
    with configuration():
        if cfg.run is not None and cfg.rollouts is not None:
            raise ValueError(f"run={cfg.run} with rollouts={cfg.rollouts}: give one of them")
        if cfg.rollouts is not None:
            if cfg.attribute:
                raise ValueError("attribute=true needs a run of ours: give run=<name of a run>")
            if not Path(cfg.rollouts).is_file():
                raise ValueError(f"rollouts={cfg.rollouts}: no such file")
            found, attributed = examine_file(Path(cfg.rollouts)), None
            page, name = Path(cfg.out), cfg.rollouts
            if page.is_dir() or not page.parent.is_dir():
                raise ValueError(f"out={cfg.out}: must be a file in a folder that is there")
        else:
            if cfg.run is None:
                raise ValueError("run is missing: give run=<name of a run>, or rollouts=<a .jsonl file of rollouts>")
            rundir = RunDir.existing(Path(cfg.runs_dir) / cfg.run)
            batch = load_batch(rundir, cfg.step) if cfg.attribute else None
            found = examine_run(rundir)
            page, name = rundir.doctor, rundir.name
    if cfg.rollouts is None:
        attributed = None if batch is None else attribution(rundir, batch, cfg, console)
    with configuration():
        write_page(page, name, found, attributed)
    for line in lines(found):
        line = line.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair in another toolkit's names
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(str(page), highlight=False, markup=False, soft_wrap=True)
    return {"alarms": {one.stage: one.alarms for one in found}, "attribution": attributed}


def lines(found: list[Examined]) -> list[str]:
    """What is printed: the alarms, and for each stage how many detectors could look at it."""
    said = [] if found else ["no step of GRPO has been logged yet"]
    for one in found:
        said += one.alarms
        could = len(one.watch.courses) - len(one.blind)
        blind = f"; had nothing to look at: {', '.join(one.blind)}" if one.blind else ""
        verdict = f"{len(one.alarms)} alarms" if one.alarms else "no alarm"
        said.append(f"{one.stage}: {verdict} in {one.steps} steps by {could} detectors{blind}")
    return said


if __name__ == "__main__":
    main()
