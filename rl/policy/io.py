"""Checkpoints of the DSA/MoE policy on disk: config.json + model.safetensors in the hub's layout.

The hub layout stores one tensor per expert (``mlp.experts.3.up_proj.weight``); in memory experts are
stacked (``mlp.experts.gate_up_proj`` [E, 2I, hidden], gate rows first). Files written here load in
transformers and vLLM as they are, and files of either layout load here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rl.policy.checkpoint_files import CheckpointError, CheckpointFiles
from rl.policy.meta import on_meta
from rl.policy.supported import DSA_ARCHITECTURES, INDEX_PRECISION, INDEX_PRECISIONS, dsa_config
from rl.policy.weight_files import write_weights
from rl.policy.weight_plan import Given

if TYPE_CHECKING:
    from rl.policy.model import DSAForCausalLM

_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
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


def save_dsa(model: DSAForCausalLM, directory: str | Path, given: Given) -> None:
    """Write config.json and the weights ``given``, by the model's names, into ``directory`` (created)."""
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [DSA_ARCHITECTURES[model.config.model_type]]
    if model.config.model_type == "glm_moe_dsa":  # what transformers does by itself, vLLM's own model only when told
        model.config.indexer_rope_interleave = True
        model.config.index_topk_pattern = "".join(kind[0].upper() for kind in model.config.indexer_types)
    model.config.dtype = next(entry.dtype for entry in given.entries if "lm_head.weight" in entry.names)
    model.config.save_pretrained(path)
    left_out = {"lm_head.weight"} if model.config.tie_word_embeddings else set[str]()
    write_weights(path, given, unstack_experts, left_out)


def index_precision(directory: str | Path) -> str:
    """How the indexer of the policy in ``directory`` compares (``rl.policy.index_precision``)."""
    stored = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    found: str = stored.get(INDEX_PRECISION, INDEX_PRECISIONS[0])
    return found


def copy_with_precision(directory: str | Path, out: str | Path, precision: str) -> None:
    """The policy of ``directory`` in the folder ``out``, the same but for its ``index_precision``."""
    shutil.copytree(directory, out, dirs_exist_ok=True)
    place = Path(out) / "config.json"
    stored = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps({**stored, INDEX_PRECISION: precision}, indent=2) + "\n", encoding="utf-8")


def load_dsa(directory: str | Path) -> DSAForCausalLM:
    """The model of ``directory`` in float32, whatever it is stored in.

    Weights are copied tensor by tensor into their place: memory is the model's plus one tensor. Multi-token prediction
    layers are left out. Raises CheckpointError on missing, unknown or misshapen weights, NaN and infinity.
    """
    from rl.policy.layers import Rotary

    model = meta_dsa(directory)
    config = model.config
    check_names(directory, model)
    model.to_empty(device="cpu")
    model.model.rotary = Rotary(config)  # its frequencies are computed, not stored
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    own = model.state_dict()
    files = CheckpointFiles(directory)
    for name in _used(files, config.num_hidden_layers):
        value = files.tensor(name)
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{name} holds NaN or infinite values; use another checkpoint")
        _place(own, name).copy_(value)
    return model


def meta_dsa(directory: str | Path) -> DSAForCausalLM:
    """The same without weights, on the meta device."""
    from rl.policy.model import DSAForCausalLM

    config = dsa_config(directory)
    if hasattr(config, "quantization_config"):  # of the file; a policy that is saved is not quantised
        del config.quantization_config
    with on_meta():
        return DSAForCausalLM(config)


def check_names(directory: str | Path, model: DSAForCausalLM) -> None:
    """Raise CheckpointError unless the checkpoint holds ``model``'s weights, all of them, in their shapes.

    Reads headers only; ``model`` may be on the meta device.
    """
    files = CheckpointFiles(directory)
    files.check_scales()
    own = model.state_dict()
    wanted = {name: value.shape for name, value in unstack_experts(own).items()}
    stacked = {name: value.shape for name, value in own.items() if name not in wanted}
    if model.config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    found = {name: files.shapes[name] for name in _used(files, model.config.num_hidden_layers)}
    for name in stacked.keys() & found.keys():  # this toolkit's earlier files and transformers' own
        for part in unstack_experts({name: own[name]}):
            wanted.pop(part)
        wanted[name] = stacked[name]
    if model.config.tie_word_embeddings:
        found.pop("lm_head.weight", None)  # some store the copy too
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        raise CheckpointError(
            f"weights in {directory} do not match config.json: missing {missing[:3]} ({len(missing)}), unexpected "
            f"{unknown[:3]} ({len(unknown)})"
        )
    files.check_floats(found)
    for name, shape in found.items():
        if tuple(wanted[name]) != shape:
            raise CheckpointError(
                f"{name} has shape {shape} in {directory}; config.json asks for {tuple(wanted[name])}"
            )


def _used(files: CheckpointFiles, layers: int) -> list[str]:
    """Names of the model's own tensors: those of multi-token prediction (layers after the last) are left out."""
    return [name for name in files.names if not ((m := _LAYER.match(name)) and int(m.group(1)) >= layers)]


def _place(own: Mapping[str, Tensor], name: str) -> Tensor:
    """Where the tensor ``name`` of a file belongs in a state dict with stacked experts: a view."""
    match = _PER_EXPERT.match(name)
    if match is None:
        return own[name]
    stem, expert, part = match.group(1), int(match.group(2)), match.group(3)
    if part == "down_proj":
        return own[f"{stem}.down_proj"][expert]
    gate, up = own[f"{stem}.gate_up_proj"][expert].chunk(2, dim=0)
    return gate if part == "gate_proj" else up
