"""The safetensors files of a checkpoint directory, read tensor by tensor, FP8 blocks dequantised on the way.

    files = CheckpointFiles(directory)
    files.shapes["model.embed_tokens.weight"]        # from the headers: no weights are read
    for name, tensor in files.stream():              # one tensor in memory at a time

Which files belong to the checkpoint: those of ``model.safetensors.index.json``, else ``model.safetensors``, else every
``*.safetensors`` but adapters and consolidated copies. Pickles (``*.bin``, ``*.pt``) are never opened.

DeepSeek-V3 stores a linear layer as float8_e4m3fn, with ``<name>_scale_inv`` float32 [ceil(rows/128),
ceil(columns/128)]: W = W_8 * scale, block by block (DeepSeek-V3, sec. 3.3.2; config.json's
``quantization_config.weight_block_size``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SCALE = "_scale_inv"
BLOCK = (128, 128)
OPEN_FILES = 4  # what was read of an open file stays in this process's memory
# Dtypes and safetensors' names of them, in the order in which it lays tensors down.
KINDS = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3", torch.int16: "I16", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int32: "I32", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in KINDS.items()}
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_FP8_NAMES = ("F8_E4M3", "F8_E5M2")
_FLOAT_NAMES = ("F64", "F32", "F16", "BF16", *_FP8_NAMES)
ADAPTER = "adapter_config.json"
_NOT_MODEL = ("adapter", "consolidated")  # what other tools lay beside a model


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message names the file or tensor and what to do."""


class CheckpointFiles:
    """Names, shapes and tensors of a checkpoint.

    Raises CheckpointError: no safetensors, a file that the index names and that is not there, a damaged header.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._handles: dict[Path, Any] = {}
        self._file_of: dict[str, Path] = {}
        for file in self._files():
            for name in self._open(file).keys():  # noqa: SIM118 (safe_open is no dict)
                self._file_of[name] = file
        index = self.directory / INDEX
        if index.is_file() and (gone := sorted(_weight_map(index).keys() - self._file_of.keys())):
            raise CheckpointError(f"{index.name} lists {gone[0]} ({len(gone)} such), which no file of it holds")

    @property
    def names(self) -> list[str]:
        """Names of the tensors, scales left out."""
        return [name for name in self._file_of if not name.endswith(SCALE)]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by name, from the headers."""
        return {name: tuple(self._slice(name).get_shape()) for name in self.names}

    @cached_property
    def fp8(self) -> set[str]:
        """Names of the tensors that are stored in FP8."""
        return {name for name in self.names if self._slice(name).get_dtype() in _FP8_NAMES}

    @cached_property
    def block(self) -> tuple[int, int]:
        """Rows and columns of an FP8 block."""
        config = self.directory / "config.json"
        stored = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        rows, columns = (stored.get("quantization_config") or {}).get("weight_block_size") or BLOCK
        return int(rows), int(columns)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor), FP8 ones as float32. Raises CheckpointError for an FP8 tensor without its scale."""
        for name in self.names:
            yield name, self.tensor(name)

    def tensor(self, name: str) -> Tensor:
        """One tensor. Raises as ``stream`` does."""
        value: Tensor = self._open(self._file_of[name]).get_tensor(name)
        if value.dtype not in _FP8:
            return value
        scale_name = name + SCALE
        if scale_name not in self._file_of:
            raise CheckpointError(
                f"{name} is FP8 and has no {scale_name}: its values mean nothing without the scales of their blocks; "
                "fetch the whole checkpoint, or convert it again"
            )
        return dequantise(value, self._open(self._file_of[scale_name]).get_tensor(scale_name), self.block)

    def empty(self, name: str) -> Tensor:
        """``tensor`` on the meta device, by its header. Raises CheckpointError for a dtype that is not known."""
        stored = self._slice(name).get_dtype()
        if stored not in _DTYPES:
            raise CheckpointError(f"{name} in {self._file_of[name].name} is stored as {stored}, which is not known")
        dtype = torch.float32 if stored in _FP8_NAMES else _DTYPES[stored]
        return torch.empty(self.shapes[name], dtype=dtype, device="meta")

    def check_scales(self) -> None:
        """Raise CheckpointError for an FP8 tensor without its scales, or with scales of another shape."""
        for name in sorted(self.fp8):
            if name + SCALE not in self._file_of:
                self.tensor(name)  # says so
            rows, columns = self.shapes[name]
            wanted = (math.ceil(rows / self.block[0]), math.ceil(columns / self.block[1]))
            found = tuple(self._slice(name + SCALE).get_shape())
            if found != wanted:
                raise CheckpointError(f"{name}{SCALE} has shape {found}; blocks of {self.block} need {wanted}")

    def check_floats(self, names: Iterable[str]) -> None:
        """Raise CheckpointError for a tensor of ``names`` that holds whole numbers: a weight that was quantised."""
        for name in sorted(names):
            if (kind := self._slice(name).get_dtype()) not in _FLOAT_NAMES:
                raise CheckpointError(
                    f"{name} in {self._file_of[name].name} is stored as {kind}, not as floating-point numbers: it is "
                    "quantised; use the plain checkpoint"
                )

    def check_finite(self) -> None:
        """Raise CheckpointError for the first tensor that holds NaN or infinity in float32. Reads every weight once."""
        for name, value in self.stream():
            if value.dtype == torch.float64:  # what is read into
                value = value.float()
            if value.is_floating_point() and not bool(value.isfinite().all()):
                bad = int((~value.isfinite()).sum())
                raise CheckpointError(
                    f"{name} in {self._file_of[name].name} holds {bad} values that are NaN or infinite; the checkpoint "
                    "is damaged or its training diverged: use another one"
                )

    def _files(self) -> list[Path]:
        index, single = self.directory / INDEX, self.directory / SINGLE
        if index.is_file():
            files = [self.directory / name for name in sorted(set(_weight_map(index).values()))]
            if absent := [file.name for file in files if not file.is_file()]:
                raise CheckpointError(
                    f"{index.name} names {absent[0]} ({len(absent)} of {len(files)} files are not there): half a "
                    "download; fetch the rest"
                )
            return files
        if single.is_file():
            return [single]
        found = sorted(self.directory.glob("*.safetensors"))
        files = [file for file in found if not file.name.startswith(_NOT_MODEL)]
        if not files:
            pickled = sorted(p.name for kind in ("*.bin", "*.pt", "*.pth") for p in self.directory.glob(kind))
            if pickled:
                raise CheckpointError(
                    f"no *.safetensors in {self.directory}, only {pickled[0]}: a pickle can run any code and is not "
                    "opened; convert it with transformers (from_pretrained, save_pretrained)"
                )
            raise CheckpointError(f"no *.safetensors in {self.directory}: no weights are there")
        return files

    def _open(self, file: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        handle = self._handles.pop(file, None)
        if handle is None:
            try:
                handle = safe_open(str(file), framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{file.name} cannot be read ({error}): half a download, or damaged; fetch it again"
                ) from error
        self._handles[file] = handle  # the last that was used
        while len(self._handles) > OPEN_FILES:
            del self._handles[next(iter(self._handles))]
        return handle

    def _slice(self, name: str) -> Any:
        return self._open(self._file_of[name]).get_slice(name)


def check_one_reading(directory: Path) -> None:
    """Raise CheckpointError where transformers would load other weights than ``CheckpointFiles`` reads, which are those
    that are checked and that an engine gets."""
    index, single = directory / INDEX, directory / SINGLE
    if index.is_file() and single.is_file() and (named := set(_weight_map(index).values())) != {SINGLE}:
        other = min(named - {SINGLE}, default="nothing")
        raise CheckpointError(
            f"{SINGLE} and {INDEX} are both in {directory}, and the index names {other}: which of them is the model? "
            "remove the other"
        )
    if not index.is_file() and not single.is_file():
        raise CheckpointError(f"{directory} has weights, but no {INDEX} that names them: half a download; fetch it")
    if (directory / ADAPTER).is_file():
        raise CheckpointError(
            f"{ADAPTER} in {directory} lies beside a whole model, and transformers would put that adapter on it; merge "
            "it, or move it away"
        )
    if "transformers_weights" in json.loads((directory / "config.json").read_text(encoding="utf-8")):
        raise CheckpointError(f"transformers_weights in {directory / 'config.json'} names other weights; take it out")


def dequantise(value: Tensor, scale: Tensor, block: tuple[int, int] = BLOCK) -> Tensor:
    """float32 [rows, columns] of FP8 ``value`` and its block scales. Raises CheckpointError when the shapes differ."""
    rows, columns = value.shape
    wanted = (math.ceil(rows / block[0]), math.ceil(columns / block[1]))
    if tuple(scale.shape) != wanted:
        raise CheckpointError(f"FP8 scales have shape {tuple(scale.shape)}; blocks of {block} need {wanted}")
    return value.float() * _spread(scale.float(), block, rows, columns)


def _spread(scale: Tensor, block: tuple[int, int], rows: int, columns: int) -> Tensor:
    return scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
            raise TypeError("weight_map must give each tensor's file")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index.name} is no index of a checkpoint ({error}); fetch it again") from error
    return found
