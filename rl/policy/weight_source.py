"""Where whole weights come from, one after the other: the tensors of a policy, which may be split over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from rl.policy.sharding import local, whole
from rl.policy.weight_plan import Entry, Given, Plan


class WeightSource:
    """The tensors of a policy, one after the other: ``named`` may be sharded (then all ranks iterate together), and is
    cast to ``dtypes`` on the way."""

    def __init__(self, named: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype] | None = None) -> None:
        self._tensors: list[tuple[Tensor, torch.dtype]] = []
        names: list[list[str]] = []
        places: dict[tuple[object, ...], int] = {}  # in the list, by where a tensor is
        for name, value in named.items():
            held = local(value)
            key: tuple[object, ...] = (held.device, held.data_ptr(), held.dtype, held.shape, held.stride(), value.shape)
            place = places.setdefault(key if held.numel() else (id(value),), len(names))
            if place < len(names):
                names[place].append(name)
                continue
            names.append([name])
            self._tensors.append((value, value.dtype if dtypes is None else dtypes[name]))
        self.entries = tuple(
            Entry(tuple(own), str(dtype).removeprefix("torch."), tuple(value.shape))
            for own, (value, dtype) in zip(names, self._tensors, strict=True)
        )

    def plan(self, version: int, bucket_bytes: int) -> Plan:
        return Plan(version, self.entries, bucket_bytes)

    def given(self) -> Given:
        """The tensors once."""
        return Given(self.entries, iter(self))

    @torch.no_grad()
    def __iter__(self) -> Iterator[Tensor]:
        """Whole tensors, in the order of ``entries``; each is gathered when it is asked for."""
        for value, dtype in self._tensors:
            yield whole(value.to(dtype)).detach()
