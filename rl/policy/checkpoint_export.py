"""A checkpoint written again in another form, tensor by tensor: float32, bfloat16, or FP8 blocks for engines.

    for done, total in export(source, target, "float8"): ...

FP8 as in DeepSeek-V3 (sec. 3.3.2): each block of 128 x 128 of a linear layer's matrix is divided by its scale
s = max |W| / 448 and rounded to float8_e4m3fn, and s is stored as ``<name>_scale_inv``; config.json says so in
``quantization_config``. Embedding, output head, norms, biases, routers and the indexer's head weights stay bfloat16, as
in the releases. What is read may be any of these forms (``rl.policy.checkpoint_files``).

Memory is one tensor's worth: each is read, changed and written (``rl.policy.weight_files``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rl.policy.checkpoint_files import BLOCK, INDEX, SCALE, CheckpointError, CheckpointFiles
from rl.policy.weight_files import SHARD_BYTES, WeightFiles

FORMS = ("float32", "bfloat16", "float8")
FP8_MAX = 448.0  # the largest finite float8_e4m3fn
_PLAIN = ("embed_tokens.", "lm_head.", "norm.", ".mlp.gate.", ".weights_proj.", ".eh_proj.", "shared_head.")
_BESIDE = ("*.json", "*.jinja", "*.model", "*.txt", "README.md")  # tokenizer, template, generation settings, card


def quantise(value: Tensor, block: tuple[int, int] = BLOCK) -> tuple[Tensor, Tensor]:
    """FP8 [rows, columns] of a matrix, and the float32 scales [ceil(rows/128), ceil(columns/128)] of its blocks."""
    rows, columns = value.shape
    padded = F.pad(value.float(), (0, -columns % block[1], 0, -rows % block[0]))
    blocks = padded.unflatten(1, (-1, block[1])).unflatten(0, (-1, block[0]))  # [R, block, C, block]
    scale = blocks.abs().amax(dim=(1, 3)) / FP8_MAX
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a block of zeros
    whole = (blocks / scale[:, None, :, None]).flatten(2, 3).flatten(0, 1)
    return whole[:rows, :columns].to(torch.float8_e4m3fn), scale


def is_quantised(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is to be stored in FP8: the matrix of a linear layer."""
    return len(shape) == 2 and name.endswith(".weight") and not any(part in name for part in _PLAIN)


def export(
    source: str | Path, target: str | Path, form: str, shard_bytes: int = SHARD_BYTES
) -> Iterator[tuple[int, int]]:
    """Write the checkpoint of ``source`` into the empty directory ``target``, in files of ``shard_bytes``; yields
    (bytes written, bytes in all) after about as many.

    Raises CheckpointError: FP8 without scales, stacked experts (which engines do not read from FP8 files), not enough
    room; ValueError for an unknown ``form``.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}: must be one of {', '.join(FORMS)}")
    source, target = Path(source), Path(target)
    files = CheckpointFiles(source)
    files.check_scales()
    if form == "float8" and (stacked := [name for name, shape in files.shapes.items() if len(shape) == 3]):
        raise CheckpointError(
            f"{stacked[0]} holds the experts of a layer in one tensor; engines read FP8 experts one by one: load and "
            "save the policy first"
        )
    fp8: set[str] = set()
    if form == "float8":  # what a checkpoint stores in FP8 already, that and no more
        fp8 = files.fp8 or {name for name, shape in files.shapes.items() if is_quantised(name, shape)}
    kinds = dict(part for name in files.names for part in _converted(name, files.empty(name), form, name in fp8))
    total = sum(value.nbytes for value in kinds.values())
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if free < total:
        raise CheckpointError(f"{target} has room for {free / 2**30:.1f} GiB; the checkpoint needs {total / 2**30:.1f}")
    _write_beside(source, target, form)
    written = WeightFiles(target, kinds, shard_bytes)
    done = said = 0
    try:
        for name in files.names:
            for part, value in _converted(name, files.tensor(name), form, name in fp8):
                written.write(part, value)
                done += value.nbytes
            if total > done >= said + shard_bytes:
                yield done, total
                said = done
        written.end()
    except BaseException:
        written.drop()
        raise
    yield done, total


def _converted(name: str, value: Tensor, form: str, fp8: bool) -> Iterator[tuple[str, Tensor]]:
    if fp8:
        stored, scale = quantise(value)
        yield name, stored
        yield name + SCALE, scale
    elif value.is_floating_point() and not _stays_float32(name):
        yield name, value.to(torch.float32 if form == "float32" else torch.bfloat16)
    else:
        yield name, value


def _stays_float32(name: str) -> bool:
    return name.endswith("e_score_correction_bias") or ".weights_proj." in name


def _write_beside(source: Path, target: Path, form: str) -> None:
    """config.json for the new form, and everything small that belongs to a model."""
    for file in sorted(found for pattern in _BESIDE for found in source.glob(pattern)):
        if file.name not in ("config.json", INDEX):
            shutil.copy2(file, target / file.name)
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)  # the older name of dtype
    config["dtype"] = "float32" if form == "float32" else "bfloat16"
    if form == "float8":
        config["quantization_config"] = {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(BLOCK),
        }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
