"""Whether a checkpoint directory can be trained from, found out before anything starts.

Names and shapes come from file headers and from the model on the meta device; then every weight is read once, for NaN
and infinity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rl.policy.checkpoint_files import ADAPTER, CheckpointError, CheckpointFiles, check_one_reading
from rl.policy.context_parallel import check_rows
from rl.policy.flops import EXPERTS
from rl.policy.io import check_names, unstack_experts
from rl.policy.lora import adapter_modules
from rl.policy.meta import on_meta
from rl.policy.supported import DSA_ARCHITECTURES, dsa_config, unsupported
from rl.policy.tree_attention import can_share

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def check_checkpoint(
    directory: str | Path,
    largest_token: int | None = None,
    adapted: Sequence[str] | None = None,
    rank: int = 1,
    sharers: int = 1,
) -> None:
    """Raise CheckpointError, in one line, when the policy in ``directory`` cannot be loaded as its config.json says.

    ``largest_token``: the largest id of the tokenizer that belongs to it. ``adapted``, ``rank``: modules that are to
    get a LoRA adapter, and its rank. ``sharers``: ranks that share the rows of a pass; raises ValueError where they
    cannot.
    """
    directory = Path(directory)
    config = read_config(directory)
    if why := unsupported(config):
        raise CheckpointError(why)
    vocab_size = config.get("vocab_size")
    if largest_token is not None and isinstance(vocab_size, int) and largest_token >= vocab_size:
        raise CheckpointError(
            f"the tokenizer has ids up to {largest_token}, the model's vocabulary is {vocab_size} (config.json): it is "
            "the tokenizer of another model"
        )
    files = CheckpointFiles(directory)
    if config["model_type"] in DSA_ARCHITECTURES:
        model: nn.Module = _check_dsa(directory)
    else:
        check_one_reading(directory)
        files.check_scales()
        model = _check_hugging_face(directory, config, files)
    adapter_modules(model, adapted, rank)
    check_context(model, sharers)
    files.check_finite()


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a checkpoint. Raises CheckpointError: not there, no JSON, no model_type."""
    file = directory / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if (directory / ADAPTER).is_file():
            raise CheckpointError(
                f"{directory} holds a LoRA adapter alone; use the policy that its run left, where it is merged"
            ) from error
        raise CheckpointError(f"{file} does not exist; expected a checkpoint directory") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); fetch it again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{file} has no model_type: it is no configuration of a model")
    return config


def _check_dsa(directory: Path) -> nn.Module:
    from rl.policy.model import DSAForCausalLM

    with on_meta():
        model = DSAForCausalLM(dsa_config(directory))
    check_names(directory, model)
    return model


def _check_hugging_face(directory: Path, config: dict[str, Any], files: CheckpointFiles) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config["model_type"]
    if kind not in CONFIG_MAPPING:
        own = " It brings code of its own (auto_map), which is not run." if config.get("auto_map") else ""
        raise CheckpointError(f"model_type={kind} is unknown to the installed transformers.{own}")
    with on_meta():
        try:
            model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(directory)))
        except ValueError as error:  # its first line; the rest is a list of all there are
            said = str(error).partition("\n")[0]
            raise CheckpointError(f"model_type={kind} is no causal language model ({said})") from error
        except Exception as error:  # of transformers' own code, for a value that it looks up
            said = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"config.json of {directory} asks for what transformers does not have ({said})"
            ) from error
    state = unstack_experts(model.state_dict())
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    for name in wanted.keys() & files.shapes.keys():
        if wanted[name] != files.shapes[name]:
            raise CheckpointError(
                f"{name} has shape {files.shapes[name]} in {directory}; config.json asks for {wanted[name]}"
            )
    files.check_floats(name for name in wanted.keys() & files.shapes.keys() if state[name].is_floating_point())
    if get_checkpoint_conversion_mapping(kind):  # the files' names are others than the model's: loading will tell
        return model  # type: ignore[no-any-return]
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    if missing := sorted(wanted.keys() - files.shapes.keys() - tied):
        raise CheckpointError(
            f"weights in {directory} do not match config.json: missing {missing[:3]} ({len(missing)})"
        )
    layers = model.config.num_hidden_layers + (config.get("num_nextn_predict_layers") or 0)
    if beyond := sorted(n for n in files.shapes if (m := _LAYER.match(n)) and int(m[1]) >= layers):
        raise CheckpointError(
            f"weights in {directory} do not match config.json: it asks for {layers} layers, and {beyond[0]} "
            f"({len(beyond)} such) is of another"
        )
    for name in sorted(tied & files.shapes.keys()):
        source = model._tied_weights_keys[name]
        if source in files.shapes and not torch.equal(files.tensor(name), files.tensor(source)):
            raise CheckpointError(
                f"{name} and {source} in {directory} differ, and tie_word_embeddings in config.json makes one of them; "
                "set it to false"
            )
    return model  # type: ignore[no-any-return]


def check_context(model: Any, ranks: int) -> None:
    """Raise ValueError when ``ranks`` cannot share the rows of a pass of ``model``, on whatever device it is."""
    if ranks > 1 and model.config.model_type not in DSA_ARCHITECTURES:
        check_rows(type(model).__name__, can_share(model.base_model), ranks)


def check_spread(config: Mapping[str, Any], ranks: int) -> None:
    """Raise ValueError when the experts of a model with this config.json cannot be dealt out to ``ranks`` evenly."""
    experts = next((config[key] for key in EXPERTS if config.get(key)), 0)
    if ranks > 1 and not experts:
        raise ValueError(f"learner.expert_parallel={ranks}: it has no experts; use 1")
    if ranks > 1 and experts % ranks:
        raise ValueError(f"learner.expert_parallel={ranks}: must divide the {experts} experts of a layer")
