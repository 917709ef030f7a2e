"""Full-state checkpoints: what is needed to resume bit for bit.

    <root>/step_000010/policy/      config.json + model.safetensors, loads in transformers and vLLM as it is;
                                    with learner.lora the adapter alone, as peft writes it
                       reference/   the same for pi_ref, only when the KL term is on
                       moments/     AdamW's, each rank's shards in a file of its own (rl.learner.moments)
                       state.pt     schedule, RNG of torch, numpy and python, counters, extra
                       manifest.json   size and SHA-256 of every file above

It does not depend on how many ranks trained, and is read by any number of them. A checkpoint is written under a
temporary name and renamed: one that can be seen was complete. What happens to it
later (a truncated, emptied or altered file, one too many) is found by the manifest, and the checkpoint before is taken.
``state.pt`` is a pickle: load only checkpoints that you trust.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.learner.config import LoraConfig
from rl.learner.learner import Learner
from rl.learner.moments import Moments, on_host, read_moments, write_moments
from rl.learner.ranks import Ranks
from rl.learner.whole import Snapshot, Whole
from rl.policy.api import Policy
from rl.policy.loading import load_policy
from rl.policy.lora import LoraPolicy
from rl.policy.sharding import put

_NAME = re.compile(r"step_(\d{6,})")
FORMAT = 2
MANIFEST = "manifest.json"


def save_checkpoint(
    root: str | Path, learner: Learner, step: int, extra: Mapping[str, Any] | None = None, keep: int = 2
) -> Path:
    """Write ``root/step_<step>`` and remove all but the last ``keep`` checkpoints. Returns its path.

    ``extra``: what the caller needs to resume (taskset state, totals); picklable. Raises OSError (disk full,
    no permission) with the older checkpoints untouched and nothing of the new one left.
    """
    return write_snapshot(root, snapshot(learner, step, extra, copied=False), keep)


def snapshot(learner: Learner, step: int, extra: Mapping[str, Any] | None = None, *, copied: bool) -> Snapshot:
    """What a checkpoint of ``learner`` as it is now holds; every rank calls it. ``copied``: the learner may go on while
    it is written; else its live tensors are in it."""
    held = learner.whole()
    moments: Moments = learner.optimizer.moments()
    if copied:
        held, moments = None if held is None else held.copied(learner.ranks is None), on_host(moments)
    return Snapshot(step, held, moments, rng_state(), dict(extra or {}), learner.ranks)


def write_snapshot(root: str | Path, taken: Snapshot, keep: int = 2) -> Path:
    """``save_checkpoint`` of a snapshot, perhaps in a thread of its own. Every rank calls it."""
    if keep < 1:
        raise ValueError(f"keep={keep}: at least 1 checkpoint must stay")
    root = Path(root)
    target = root / f"step_{taken.step:06d}"
    partial, replaced = root / f".partial_{target.name}", root / f".replaced_{target.name}"
    held, moments = taken.held, taken.moments
    needed = (0 if held is None else held.bytes) + sum(v.nbytes for entry in moments.values() for v in entry.values())
    try:
        with _together(taken.ranks):
            if held is not None:  # the first rank writes what is whole
                root.mkdir(parents=True, exist_ok=True)
                _require_space(root, needed)
                for leftover in (*root.glob(".partial_*"), replaced):  # of saves that were killed, whatever their step
                    shutil.rmtree(leftover, ignore_errors=True)
                partial.mkdir()
                _write(partial, held, taken)
        write_moments(partial, moments, None if taken.ranks is None else taken.ranks.background)
        if held is None:
            return target
        _seal(partial)
    except BaseException as error:
        if held is not None:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, Exception) and root.is_dir():  # libraries name a full disk in their own ways
                _require_space(root, needed)
        raise
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    _sync(root)
    shutil.rmtree(replaced, ignore_errors=True)
    whole = [path for path in checkpoints(root) if damage(path, content=False) is None]
    for old in whole[:-keep]:  # what is damaged does not count among those that are kept
        shutil.rmtree(old)
    return target


def _write(partial: Path, held: Whole, taken: Snapshot) -> None:
    if isinstance(held.policy, LoraPolicy):
        held.policy.save_adapter(partial / "policy")
    else:
        held.policy.save(partial / "policy")
    if held.reference is not None:
        held.reference.save(partial / "reference")
    state = {
        "format": FORMAT,
        "step": taken.step,
        "learner": held.state,
        "rng": taken.rng,
        "extra": taken.extra,
    }
    torch.save(state, partial / "state.pt")


def _seal(partial: Path) -> None:
    write_manifest(partial)
    for path in (*partial.rglob("*"), partial):
        _sync(path)


@contextmanager
def _together(ranks: Ranks | None) -> Iterator[None]:
    """What one rank raises in the block, all raise: the others would wait for it."""
    wrong: Exception | None = None
    try:
        yield
    except (OSError, ValueError) as error:
        wrong = error
    except Exception as error:
        if ranks is None:
            raise
        # A library's own kind may not go from process to process.
        wrong = RuntimeError(f"{type(error).__name__}: {error}")
    if ranks is not None:
        wrong = next((e for e in ranks.gather(wrong, ranks.background) if e is not None), None)
    if wrong is not None:
        raise wrong


def write_manifest(path: Path) -> None:
    """Note size and hash of every file of the checkpoint ``path``."""
    files = {str(p.relative_to(path)): {"bytes": p.stat().st_size, "sha256": _digest(p)} for p in _files(path)}
    (path / MANIFEST).write_text(json.dumps(files, indent=1, sort_keys=True), encoding="utf-8")


def damage(path: str | Path, content: bool = True) -> str | None:
    """What is wrong with a checkpoint, in a few words; None: nothing. ``content=False`` compares sizes only."""
    path = Path(path)
    try:
        expected = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found = {str(p.relative_to(path)): p for p in _files(path)}
        for name, entry in expected.items():
            if name not in found:
                return f"{name} is not there"
            if (size := found[name].stat().st_size) != entry["bytes"]:
                return f"{name} has {size} bytes instead of {entry['bytes']}"
            if content and _digest(found[name]) != entry["sha256"]:
                return f"{name} was changed after it was written"
        if strays := sorted(found.keys() - expected.keys()):
            return f"{strays[0]} does not belong to it"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # JSON of any shape
        return f"{MANIFEST} cannot be read ({error})"
    return None


def newest_whole(root: str | Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that nothing is wrong with, or None; and a sentence for every newer one that is damaged.
    Reads all of each that it looks at."""
    said: list[str] = []
    for path in reversed(checkpoints(root)):
        wrong = damage(path)
        if wrong is None:
            return path, said
        said.append(f"checkpoint {path.name} is damaged ({wrong})")
    return None, said


def load_checkpoint(path: str | Path, learner: Learner) -> dict[str, Any]:
    """Restore ``learner`` and the process's RNGs from ``path``; returns ``extra`` with ``step`` added.

    Of several ranks the first one reads the weights, and each its shards of the moments.
    """
    path = Path(path)
    if not (path / "state.pt").is_file():
        raise FileNotFoundError(f"{path} is no checkpoint: state.pt is missing; see latest_checkpoint(root)")
    others = not learner.first
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=False)
    if state["format"] != FORMAT:
        raise ValueError(f"{path} has checkpoint format {state['format']}; this version reads format {FORMAT}")
    if learner.lora is not None:
        learner.lora.load_adapter(path / "policy")
    else:
        _restore(learner.policy, path / "policy", others)
    if learner.reference is not None and learner.reference.own:
        if not (path / "reference").is_dir():
            raise FileNotFoundError(
                f"{path}/reference is missing: the run was started with objective.kl_coef=0; resume it with 0"
            )
        _restore(learner.reference.policy, path / "reference", others)
    learning = dict(zip(learner.optimizer.names, learner.optimizer.parameters, strict=True))
    learner.load_state_dict(state["learner"], read_moments(path, learning, alone=learner.ranks is None))
    set_rng_state(state["rng"])
    return {**state["extra"], "step": state["step"]}


def check_adapter(path: str | Path, lora: LoraConfig) -> None:
    """Raise ValueError when the checkpoint ``path`` was written with another ``learner.lora``."""
    file = Path(path) / "policy" / "adapter_config.json"
    stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"r": 0, "lora_alpha": lora.alpha}
    for name, now, then in (("rank", lora.rank, stored["r"]), ("alpha", lora.alpha, stored["lora_alpha"])):
        if now != then:
            raise ValueError(
                f"learner.lora.{name}={now}: checkpoint {Path(path).name} was written with {then}; set it back"
            )


def stored_extra(path: str | Path) -> dict[str, Any]:
    """The ``extra`` of a checkpoint alone."""
    state = torch.load(Path(path) / "state.pt", map_location="cpu", weights_only=False)
    extra: dict[str, Any] = state["extra"]
    return extra


def checkpoints(root: str | Path) -> list[Path]:
    """Complete checkpoints under ``root``, oldest first."""
    found = [(int(m[1]), p) for p in Path(root).glob("step_*") if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


def latest_checkpoint(root: str | Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    found = checkpoints(root)
    return found[-1] if found else None


def rng_state() -> dict[str, Any]:
    """State of the global generators of torch (CPU and every CUDA device), numpy and python."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Inverse of ``rng_state``."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


@torch.no_grad()
def _restore(policy: Policy, directory: Path, empty: bool) -> None:
    """Copy the stored weights into ``policy`` in place (the optimiser holds its parameters). ``empty``: another rank
    reads them."""
    stored = load_policy(directory, empty=empty).weights()
    live = policy.weights()
    if stored.keys() != live.keys():
        raise ValueError(f"{directory} holds other weights than this policy: {sorted(stored.keys() ^ live.keys())[:5]}")
    for name, value in live.items():
        if stored[name].shape != value.shape:
            raise ValueError(
                f"{directory}: {name} has shape {tuple(stored[name].shape)}; this policy's is {tuple(value.shape)}"
            )
        put(value, stored[name])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != MANIFEST)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"no space for a checkpoint: it needs {needed / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free; "
            f"{-((free - needed) // 2**20):,} MiB more make room (keep_checkpoints, tracking.save_batch_every)",
            str(root),
        )
