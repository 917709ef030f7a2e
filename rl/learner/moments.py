"""AdamW's moments on disk, by torch's distributed checkpoint: each rank writes what it holds, any number of them reads.

    <checkpoint>/moments/   .metadata, __<rank>_<n>.distcp      {parameter: {exp_avg, exp_avg_sq, step}}

No process ever holds all of them. Ranks on several machines need a file system that all of them see.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MOMENTS = "moments"
Moments = Mapping[str, Mapping[str, Tensor]]  # by parameter: exp_avg and exp_avg_sq [of its shape], step


def on_host(moments: Moments) -> Moments:
    """A copy of them in the host's memory, sharded as they are."""
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    stager = DefaultStager(StagingOptions(False, False, False, False))  # plain memory, and done when it returns
    try:
        return cast(Moments, stager.stage({name: dict(entry) for name, entry in moments.items()}))
    finally:
        stager.close()


def write_moments(checkpoint: Path, moments: Moments, group: ProcessGroup | None) -> None:
    """Write ``checkpoint/moments``; nothing when there are none yet. ``group``: of the ranks, None of one alone. Every
    rank calls it, and what one of them raises while writing is raised by all.

    Raises OSError when the disk is full, or when what another machine's rank has written is not to be seen here.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    if not moments:
        return
    folder = checkpoint / MOMENTS
    state = {name: dict(entry) for name, entry in moments.items()}
    alone = group is None
    _run(lambda: save(state, checkpoint_id=folder, process_group=group, no_dist=alone))
    if not alone and torch.distributed.get_rank() > 0:
        return  # the first rank looks, and renames the folder when it has seen all
    written = {place.relative_path for place in (_metadata(folder).storage_data or {}).values()}
    if missing := sorted(name for name in written if not (folder / name).is_file()):
        raise OSError(
            f"{missing[0]} of {folder} was written on another machine: with learner.ranks on several of them runs_dir "
            "must be a folder that all machines share"
        )


def read_moments(checkpoint: Path, parameters: Mapping[str, Tensor], alone: bool) -> dict[str, dict[str, Tensor]]:
    """The moments in ``checkpoint`` of these ``parameters``, sharded as they are; {} when none were written.

    Raises ValueError when they are another policy's.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    folder = checkpoint / MOMENTS
    if not folder.is_dir():
        return {}
    stored = _metadata(folder).state_dict_metadata
    names = sorted({name.rpartition(".")[0] for name in stored})
    if strange := [name for name in names if name not in parameters]:
        raise ValueError(f"{folder} holds moments of {strange[0]}, which does not learn here ({len(strange)} such)")
    state: dict[str, dict[str, Tensor]] = {}
    for name in names:
        like = parameters[name].detach()
        shape = tuple(stored[f"{name}.exp_avg"].size)
        if shape != tuple(like.shape):
            raise ValueError(f"{folder}: {name} has shape {shape}; this policy's is {tuple(like.shape)}")
        state[name] = {part: torch.zeros_like(like) for part in ("exp_avg", "exp_avg_sq")} | {"step": torch.zeros(())}
    _run(lambda: load(state, checkpoint_id=folder, no_dist=alone))
    return state


def _metadata(folder: Path) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    return FileSystemReader(folder).read_metadata()


def _run(work: Callable[[], Any]) -> None:
    """Raise what a rank has raised itself: torch wraps it in an exception that nobody catches by its name."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():  # that one process does without torch.distributed
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            work()
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise cause from error
