"""Low-rank adapters (LoRA, Hu et al. 2021) on any policy, by the package peft.

    W' = W + alpha / r * B A,   A [r, in] random, B [out, r] zero at first; only A and B are trained

Adapted are all linear layers and, per expert, the stacked weights of mixture-of-experts layers; not the embedding, the
output head, the router and the DSA indexer (the sampler's choices are replayed, so these have no part in the update).
With the adapter off the policy is its base: the reference of the KL term costs no second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rl.policy.api import CuSeqlens, Policy
from rl.policy.dtypes import cast_copy, stays_float32
from rl.policy.ops.operators import Operators
from rl.policy.replay import Record, Replay
from rl.policy.sharding import put
from rl.policy.weight_plan import Given
from rl.policy.weight_source import WeightSource

A, B = ".lora_A", ".lora_B"  # behind a weight's name: its factors on their way to an engine
FILE = "adapter_model.safetensors"  # peft's name
_PEFT = "base_model.model."  # what peft writes before every name


def adapter_modules(
    module: nn.Module, wanted: Sequence[str] | None = None, rank: int = 1
) -> tuple[list[str], list[str]]:
    """Names of the linear layers and of the stacked expert weights that get an adapter.

    ``wanted``: last parts of module names ("q_proj", "experts"); None: all. Raises ValueError for one that is nowhere,
    and for a ``rank`` that no weight of them can have.
    """
    linears, stacked = [], []
    for name, child in module.named_modules():
        if ".indexer." in name or name.endswith("lm_head"):
            continue
        if isinstance(child, nn.Linear):
            linears.append(name)
        stacked += [f"{name}.{own}" for own, value in child.named_parameters(recurse=False) if value.ndim == 3]
    shapes = [value.shape[-2:] for value in module.parameters() if value.ndim > 1]
    if rank > (most := max(min(shape) for shape in shapes)):
        raise ValueError(f"learner.lora.rank={rank}: no weight of this policy has a rank above {most}")
    if wanted is None:
        return linears, stacked
    there = sorted({name.rpartition(".")[2] for name in linears} | {name.split(".")[-2] for name in stacked})
    for last in wanted:
        if last not in there:
            raise ValueError(f"learner.lora.modules: {last!r} is no module with an adapter; here: {', '.join(there)}")
    return (
        [name for name in linears if name.rpartition(".")[2] in wanted],
        [name for name in stacked if name.split(".")[-2] in wanted],
    )


class LoraPolicy:
    """``inner`` with an adapter in its layers (its module is changed in place); the rest of it is frozen.

    ``alpha``: the update is scaled by alpha / rank. ``modules``: as in ``adapter_modules``.
    """

    def __init__(
        self, inner: Policy, rank: int, alpha: int, modules: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        from peft import LoraConfig, LoraModel

        linears, stacked = adapter_modules(inner.module, modules, rank)
        self.inner, self.mode, self.vocab_size = inner, inner.mode, inner.vocab_size
        self.num_experts, self.num_moe_layers = inner.num_experts, inner.num_moe_layers
        # Whole names: peft takes the ends of names, and "experts" would also find "shared_experts".
        self.config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=linears, target_parameters=stacked, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lora: Any = LoraModel(_Bare(inner.module), self.config, "default")
        adapted, expected = {name for name, _ in _layers(inner.module)}, {*(f"{n}.weight" for n in linears), *stacked}
        if adapted != expected:
            raise RuntimeError(f"peft adapted other weights than it was told: {sorted(adapted ^ expected)[:3]}")

    @property
    def module(self) -> nn.Module:
        return self.inner.module

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self.inner.layers

    @property
    def shares_prefixes(self) -> bool:
        return self.inner.shares_prefixes

    def packed_logits(
        self,
        tokens_T: Tensor,
        cu_seqlens: CuSeqlens,
        replay: Replay | None = None,
        record: Record | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        return self.inner.packed_logits(tokens_T, cu_seqlens, replay, record, rows)

    def packed_hidden(
        self,
        tokens_T: Tensor,
        cu_seqlens: CuSeqlens,
        replay: Replay | None = None,
        record: Record | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        return self.inner.packed_hidden(tokens_T, cu_seqlens, replay, record, rows)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.inner.logits(hidden)

    @property
    def ops(self) -> Operators:
        return self.inner.ops

    def head_weight(self) -> Tensor:
        return self.inner.head_weight()

    def set_ops(self, ops: Operators) -> None:
        self.inner.set_ops(ops)

    def set_recompute(self, on: bool) -> None:
        self.inner.set_recompute(on)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.inner.named_parameters()

    def update_router_bias(self, counts: Tensor, gamma: float) -> None:
        self.inner.update_router_bias(counts, gamma)

    def weights(self) -> dict[str, Tensor]:
        """The adapter alone: of every adapted weight W its factors, alpha / r already in B, so that W' = W + B A.

        ``<name of W>.lora_A`` [r, in], ``.lora_B`` [out, r] (float32); stacked experts: [E, r, in], [E, out, r].
        """
        from peft.tuners.lora.layer import ParamWrapper

        found: dict[str, Tensor] = {}
        for name, layer in _layers(self.module):
            if isinstance(layer, ParamWrapper):
                left, right, scaling = layer.get_delta_factors("default")  # type: ignore[no-untyped-call]
            else:
                left, right = layer.lora_B["default"].weight, layer.lora_A["default"].weight
                scaling = layer.scaling["default"]
            found[name + A] = right.detach()
            found[name + B] = left.detach().float() * scaling
        return found

    def base_weights(self) -> dict[str, Tensor]:
        """All weights but the adapter's, by the names that they have without it; detached, not cloned."""
        state = self.module.state_dict()
        return {_plain(name): value.detach() for name, value in state.items() if ".lora_" not in name}

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base policy, for as long as the block runs."""
        self.lora.disable_adapter_layers()
        try:
            yield
        finally:
            self.lora.enable_adapter_layers()

    def merged(self) -> Policy:
        """A copy without adapter, whose float32 weights are W + alpha / r * B A."""
        plain: Any = cast_copy(self, torch.float32)
        plain.lora.merge_and_unload()
        return plain.inner  # type: ignore[no-any-return]

    def save(self, directory: str | Path, given: Given | None = None) -> None:
        """The merged policy, in the dtype of this one: loads wherever the base does. ``given``: merged weights."""
        if given is None:
            base = self.base_weights()
            dtype = next(value.dtype for name, value in self.named_parameters() if ".lora_" in name)
            cast = {_plain(n) for n, _ in self.named_parameters() if not stays_float32(self.module, _plain(n))}
            dtypes = {name: dtype if name in cast else value.dtype for name, value in base.items()}
            given = merged(WeightSource(base, dtypes), self.weights())
        self.inner.save(directory, given)

    def save_adapter(self, directory: str | Path) -> None:
        """The adapter alone, as peft writes it: adapter_config.json and adapter_model.safetensors."""
        from safetensors.torch import save_file

        self.config.save_pretrained(str(directory))
        state = {_file_name(name): value.detach().cpu().contiguous() for name, value in self._adapter().items()}
        save_file(state, str(Path(directory) / FILE), metadata={"format": "pt"})

    @torch.no_grad()
    def load_adapter(self, directory: str | Path) -> None:
        """Copy a stored adapter into this one, in place. Raises ValueError when it is another one's."""
        from safetensors.torch import load_file

        file = Path(directory) / FILE
        if not file.is_file():
            raise ValueError(f"{file} is missing: this run was started without learner.lora.rank; resume it without")
        stored, own = load_file(str(file)), {_file_name(name): value for name, value in self._adapter().items()}
        other = sorted(stored.keys() ^ own.keys()) or [n for n, v in own.items() if stored[n].shape != v.shape]
        if other:
            raise ValueError(f"{file} is another adapter ({other[0]}): learner.lora must be what it was")
        for name, value in own.items():
            put(value, stored[name])

    def _adapter(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.named_parameters() if ".lora_" in name}


class _Bare(nn.Module):
    """Hides a model's config.json from peft, which would rename the layers of MoE families that changed in transformers
    5: it takes dense layers for experts then."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.bare = module


def merge(base: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights W' of ``LoraPolicy.base_weights`` and ``LoraPolicy.weights``; those with an adapter in float32.

    Raises ValueError for factors of a weight that is not there.
    """
    out = dict(base)
    for name, right in factors.items():
        if not name.endswith(A):
            continue
        weight = name.removesuffix(A)
        if weight not in base:
            raise ValueError(f"an adapter for {weight}, which the base policy does not have")
        out[weight] = torch.add(base[weight].float(), factors[weight + B].float() @ right.float())
    return out


def merged(base: WeightSource, factors: Mapping[str, Tensor]) -> Given:
    """The same tensor by tensor, each in the dtype that ``base`` gives it."""

    def tensors() -> Iterator[Tensor]:
        for entry, value in zip(base.entries, base, strict=True):
            near = {name: factors[name] for name in (entry.name + A, entry.name + B) if name in factors}
            yield merge({entry.name: value}, near)[entry.name].to(value.dtype)

    return Given(base.entries, tensors())


def holds_adapter(named: Mapping[str, Any]) -> bool:
    """Whether what a learner published is an adapter (``LoraPolicy.weights``)."""
    return any(name.endswith(A) for name in named)


def _layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name of the adapted weight, its layer of peft)."""
    from peft.tuners.lora.layer import LoraLayer

    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer):
            yield f"{_plain(name)}.{getattr(layer, 'parameter_name', 'weight')}", layer


def _plain(name: str) -> str:
    return name.replace(".base_layer", "")


def _file_name(name: str) -> str:
    return _PEFT + name.replace(".default", "")
