"""Which part makes learner and sampler disagree, on a batch that the run has stored: `rl-doctor attribute=true`.

Every part is switched off in turn (``rl.learner.attribution``). The table is printed, kept in
``runs/<name>/diagnose/step_000020.json`` and shown in the run's report.html.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from configs.schema import DoctorConfig
    from rl.run.batches import StoredBatch
    from rl.tracking.rundir import RunDir


def attribution(rundir: RunDir, batch: StoredBatch, cfg: DoctorConfig, console: Console) -> dict[str, Any]:
    """The attribution of ``batch``, printed and written to ``diagnose/step_<n>.json`` and the report.

    Raises ConfigurationError for a batch that cannot be attributed.
    """
    from rl.run.preflight import ConfigurationError
    from rl.tracking.report import write_report
    from rl.tracking.rundir import step_name, write_atomic

    try:
        found = attribute_batch(batch, cfg, console)
    except ValueError as error:
        raise ConfigurationError(f"step {batch.step} of run '{rundir.name}': {error}") from error
    rundir.diagnoses.mkdir(exist_ok=True)
    path = rundir.diagnoses / f"{step_name(batch.step)}.json"
    write_atomic(path, json.dumps(found, indent=2) + "\n")
    report = write_report(rundir)
    show(found, console)
    console.print(f"{path}\n{report}", highlight=False)
    return found


def attribute_batch(batch: StoredBatch, cfg: DoctorConfig, console: Console) -> dict[str, Any]:
    """The attribution of ``batch`` with where and how it was made; shows progress on ``console``.

    Raises ValueError for a device that is not there and for a batch that cannot be attributed.
    """
    import torch

    from rl.learner.attribution import attribute
    from rl.policy.loading import load_policy

    device = cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={cfg.device}, but torch sees no CUDA device; use device=cpu")
    torch.set_num_threads(cfg.threads or len(os.sched_getaffinity(0)))
    started = time.perf_counter()
    with console.status(f"loading the weights of version {batch.version}") as status:
        policy = load_policy(batch.policy)
        policy.module.to(device)

        def on_pass(setting: str, done: int, total: int) -> None:
            spent = time.perf_counter() - started
            left = spent / done * (total - done) if done else float("nan")
            status.update(f"micro-batch {done + 1} of {total}: {setting}, {spent:.0f} s, about {left:.0f} s left")

        found = attribute(
            policy,
            batch.groups,
            batch.version,
            temperature=batch.sampling["temperature"],
            truncated=batch.truncated,
            max_tokens=cfg.max_tokens_per_microbatch,
            worst=cfg.worst,
            on_pass=on_pass,
        )
    _add_text(found, batch.policy)
    head = {"step": batch.step, "version": batch.version, "device": device, "sampling": batch.sampling}
    return head | found


def show(found: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    from rich.table import Table
    from rich.text import Text

    from rl.tracking.diagnosis import diagnosis_tables

    for text in diagnosis_tables(found):
        table = Table(title=text.title, title_justify="left", caption=text.note, caption_justify="left")
        for i, column in enumerate(text.head):
            table.add_column(column, justify="right" if i > 1 else "left", overflow="fold")
        for row in text.rows:
            table.add_row(*(Text(cell) for cell in row))  # token text may look like rich's markup
        console.print(table)


def _add_text(found: dict[str, Any], policy: Path) -> None:
    """Each worst token's text, where the policy's tokenizer lies beside it."""
    if not (policy / "tokenizer.json").is_file():
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(policy / "tokenizer.json"))
    for tokens in found["worst"].values():
        for token in tokens:
            token["text"] = tokenizer.decode([token["token"]], skip_special_tokens=False)
