"""Checkpoints of the DSA/MoE policy on disk: config.json + model.safetensors in the hub's layout.

The hub layout stores one tensor per expert (``mlp.experts.3.up_proj.weight``); in memory experts are
stacked (``mlp.experts.gate_up_proj`` [E, 2I, hidden], gate rows first). Files written here load in
transformers and vLLM as they are, and files of either layout load here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rl.policy.model import DSAForCausalLM

_PER_EXPERT = re.compile(r"^(.*\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight$")


def unstack_experts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In-memory names -> hub names (one tensor per expert)."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(".mlp.experts.gate_up_proj"):
            stem = name.removesuffix(".gate_up_proj")
            for e, pair in enumerate(value):
                gate, up = pair.chunk(2, dim=0)
                out[f"{stem}.{e}.gate_proj.weight"], out[f"{stem}.{e}.up_proj.weight"] = gate, up
        elif name.endswith(".mlp.experts.down_proj"):
            stem = name.removesuffix(".down_proj")
            out.update({f"{stem}.{e}.down_proj.weight": down for e, down in enumerate(value)})
        else:
            out[name] = value
    return out


def stack_experts(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Hub names -> in-memory names; stacked names pass through. Holds back a layer until complete.

    Raises ValueError when the stream ends with an incomplete layer.
    """
    pending: dict[str, dict[tuple[str, int], Tensor]] = {}
    for name, value in named:
        match = _PER_EXPERT.match(name)
        if match is None:
            yield name, value
        else:
            stem, expert, part = match.group(1), int(match.group(2)), match.group(3)
            pending.setdefault(stem, {})[part, expert] = value
    for stem, parts in pending.items():
        count = 1 + max(e for _, e in parts)
        missing = [(p, e) for p in ("gate_proj", "up_proj", "down_proj") for e in range(count) if (p, e) not in parts]
        if missing:
            raise ValueError(f"{stem}: {len(missing)} expert tensors are missing, e.g. {missing[0]}; file incomplete")
        yield (
            f"{stem}.gate_up_proj",
            torch.stack([torch.cat([parts["gate_proj", e], parts["up_proj", e]]) for e in range(count)]),
        )
        yield f"{stem}.down_proj", torch.stack([parts["down_proj", e] for e in range(count)])


def read_tensors(directory: str | Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every safetensors file in ``directory``, names as in memory."""
    from safetensors import safe_open

    files = sorted(Path(directory).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors in {directory}; expected a checkpoint written by save()")

    def raw() -> Iterator[tuple[str, Tensor]]:
        for file in files:
            with safe_open(str(file), framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 (safe_open is no dict)
                    yield name, handle.get_tensor(name)

    return stack_experts(raw())


def save_dsa(model: DSAForCausalLM, directory: str | Path) -> None:
    """Write config.json and model.safetensors into ``directory`` (created)."""
    from safetensors.torch import save_file

    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    model.config.architectures = ["DeepseekV32ForCausalLM"]
    model.config.dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    model.config.save_pretrained(path)
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    tensors = {k: v.detach().to("cpu").clone().contiguous() for k, v in unstack_experts(state).items()}
    save_file(tensors, str(path / "model.safetensors"), metadata={"format": "pt"})


def load_dsa(directory: str | Path) -> DSAForCausalLM:
    """The model of ``directory``, in its stored dtype. Raises ValueError on missing or unknown weights."""
    from transformers import DeepseekV32Config

    from rl.policy.model import DSAForCausalLM

    model = DSAForCausalLM(DeepseekV32Config.from_pretrained(str(directory)))
    state = dict(read_tensors(directory))
    if model.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.to(state["model.embed_tokens.weight"].dtype)
    mtp = f"model.layers.{model.config.num_hidden_layers}."  # multi-token prediction: not used
    result = model.load_state_dict({k: v for k, v in state.items() if not k.startswith(mtp)}, strict=False)
    if result.missing_keys or result.unexpected_keys:
        raise ValueError(
            f"weights in {directory} do not match config.json: missing {result.missing_keys[:3]}, "
            f"unexpected {result.unexpected_keys[:3]}"
        )
    return model
