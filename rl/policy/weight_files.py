"""A policy's weights as files of a hub's checkpoint, written tensor by tensor: nobody holds all of them for it.

    names, dtypes and shapes are known first:  every file gets its header and its size
    then one tensor after the other:           its bytes go to their place, and it is dropped

What comes may be gathered from the ranks of a learner when its turn comes (``rl.policy.weight_plan.Given``). Files have
other names until all of them are whole; they are what the package safetensors would have written, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rl.policy.checkpoint_files import INDEX, KINDS, SINGLE
from rl.policy.checksum import bytes_of
from rl.policy.weight_plan import Entry, Given

SHARD_BYTES = 5 * 2**30  # of a file
AT_ONCE = 32 * 2**20  # bytes that come to the host's memory at a time
PART = ".part"  # behind a file's name until all are whole
_ORDER = {name: place for place, name in enumerate(KINDS.values())}

Stored = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]  # tensors by a model's names → by those of its files


@dataclass(frozen=True)
class _Place:
    """Where the bytes of a tensor are: ``first`` … ``first + size`` of ``file``."""

    file: Path
    first: int
    size: int


class WeightFiles:
    """``model.safetensors``, or several files and their index where one would be larger than ``shard_bytes``.

    Args:
        directory: must exist; what it holds of an earlier checkpoint goes when this one is whole.
        kinds: a tensor of the kind of each, by name, in the order in which they will come; may be on the meta device.
    Raises:
        ValueError: a dtype that safetensors does not have.
        OSError: no room, no permission. Nothing is left then, and what was there before stays.
    """

    def __init__(self, directory: Path, kinds: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
        self._directory, self._places = directory, dict[str, _Place]()
        shards: list[list[str]] = [[]]
        held = 0
        for name, value in kinds.items():
            if value.dtype not in KINDS:
                raise ValueError(f"{name} is {value.dtype}, which safetensors does not store")
            if shards[-1] and held + value.nbytes > shard_bytes:
                shards.append([])
                held = 0
            shards[-1].append(name)
            held += value.nbytes
        several = len(shards) > 1
        self._files = [
            f"model-{n:05d}-of-{len(shards):05d}.safetensors" if several else SINGLE for n in range(1, len(shards) + 1)
        ]
        self._map = {name: file for file, names in zip(self._files, shards, strict=True) for name in names}
        self.nbytes = sum(value.nbytes for value in kinds.values())
        self._left = set(kinds)
        self._meta = {name: (value.dtype, value.shape) for name, value in kinds.items()}
        for old in directory.glob("model*.safetensors" + PART):  # of one that was killed
            old.unlink()
        try:
            for file, names in zip(self._files, shards, strict=True):
                self._begin(directory / (file + PART), {name: kinds[name] for name in names})
        except BaseException:
            self.drop()
            raise

    def write(self, name: str, value: Tensor) -> None:
        """``value``, which is what ``kinds`` said of it, wherever it is."""
        assert (value.dtype, value.shape) == self._meta[name], (name, value.dtype, value.shape)
        place, data = self._places[name], bytes_of(value)
        with place.file.open("r+b") as file:
            file.seek(place.first)
            for part in data.split(AT_ONCE):
                file.write(memoryview(part.cpu().numpy()))
        self._left.discard(name)

    def end(self) -> None:
        """Every tensor has come: the files get their names."""
        assert not self._left, sorted(self._left)[:5]
        for file in self._files:
            (self._directory / (file + PART)).replace(self._directory / file)
        index = self._directory / INDEX
        index.unlink(missing_ok=True)
        for old in self._directory.glob("model*.safetensors"):
            if old.name not in self._files and (old.name == SINGLE or "-of-" in old.name):
                old.unlink()
        if len(self._files) > 1:
            said = {"metadata": {"total_size": self.nbytes}, "weight_map": self._map}
            index.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def drop(self) -> None:
        """They will not come: nothing of this one stays."""
        for file in self._files:
            (self._directory / (file + PART)).unlink(missing_ok=True)

    def _begin(self, path: Path, kinds: Mapping[str, Tensor]) -> None:
        order = sorted(kinds, key=lambda name: (-_ORDER[KINDS[kinds[name].dtype]], name))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name in order:
            value = kinds[name]
            header[name] = {
                "dtype": KINDS[value.dtype], "shape": list(value.shape), "data_offsets": [at, at + value.nbytes],
            }  # fmt: skip
            at += value.nbytes
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        first = 8 + len(text)
        for name in order:
            self._places[name] = _Place(path, first, kinds[name].nbytes)
            first += kinds[name].nbytes
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(first)


def write_weights(
    directory: Path, given: Given, stored: Stored, left_out: Container[str] = (), shard_bytes: int = SHARD_BYTES
) -> None:
    """Write all of ``given`` but the names ``left_out`` (a head that is tied to the embedding).

    ``stored``: of tensors by the model's names those of its files, views where it can be; asked for each tensor alone,
    but for a model whose files hold one tensor for several of its own: of that all tensors are held at once.
    Raises OSError, and leaves what was there before.
    """
    named = [(entry, [name for name in entry.names if name not in left_out]) for entry in given.entries]
    free = shutil.disk_usage(directory).free
    if (needed := sum(entry.nbytes for entry in given.entries)) > free:
        raise OSError(f"{directory} has room for {free / 2**30:.1f} GiB; the weights take {needed / 2**30:.1f}")
    alone: dict[str, Tensor] = {}
    for entry, names in named:
        for name in names:
            alone |= stored({name: entry.empty()})
    together = stored({name: entry.empty() for entry, names in named for name in names})
    by_tensor = {n: v.shape for n, v in alone.items()} == {n: v.shape for n, v in together.items()}
    files = WeightFiles(directory, alone if by_tensor else together, shard_bytes)
    try:
        for tensors in _by_tensor(given, named) if by_tensor else _at_once(given, named):
            for name, value in stored(tensors).items():
                files.write(name, value)
        files.end()
    except BaseException:
        files.drop()
        raise


def _by_tensor(given: Given, named: list[tuple[Entry, list[str]]]) -> Iterator[dict[str, Tensor]]:
    for (_, names), value in zip(named, given.tensors, strict=True):
        for name in names:
            yield {name: value}


def _at_once(given: Given, named: list[tuple[Entry, list[str]]]) -> Iterator[dict[str, Tensor]]:
    yield {name: value for (_, names), value in zip(named, given.tensors, strict=True) for name in names}
