"""Why the rollout engines cannot run a model, or do not record what the objective needs of it: told from its
config.json and the settings, before anything starts. Every line begins with the field to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.policy.supported import DSA_ARCHITECTURES, INDEX_PRECISION, unsupported

if TYPE_CHECKING:
    from configs.schema import PolicyConfig, RayConfig
    from rl.learner.config import ReplayConfig
    from rl.rollout.config import RolloutConfig

# What every rank has an equal part of.
_SHARED = ("num_attention_heads", "intermediate_size", "moe_intermediate_size")


def check_engine(
    rollout: RolloutConfig, ray: RayConfig, policy: PolicyConfig, directory: Path | None, replay: ReplayConfig | None,
    index_precision: str | None = None,
) -> None:  # fmt: skip
    """Raise ValueError when the rollout engines cannot run the policy, or record what ``replay`` needs of it.
    ``directory``: where it lies; None: it is built from ``policy.preset``. ``index_precision``: None: the policy's."""
    from rl.policy.checkpoint_checks import read_config
    from rl.policy.presets import PRESETS

    if directory is None:
        model: dict[str, Any] = PRESETS[policy.preset](1024, **policy.overrides).to_dict()
    else:
        model = read_config(directory)
    model = with_precision(model, index_precision)
    refused = engine_refusals(rollout, model, gpus=_on_gpus(ray), worker_gpus=ray.worker_gpus, replay=replay)
    if refused:
        raise ValueError(refused[0])


def with_precision(model: Mapping[str, Any], precision: str | None) -> dict[str, Any]:
    """config.json ``model`` with ``base.index_precision`` in it; None: as it is. Raises ValueError for a policy whose
    indexer, if it has one, cannot compare so."""
    if precision is None:
        return dict(model)
    asked = f"base.index_precision={precision}"
    if model["model_type"] not in DSA_ARCHITECTURES:
        raise ValueError(f"{asked}: model_type={model['model_type']} has no DSA indexer; use null")
    changed = {**model, INDEX_PRECISION: precision}
    if why := unsupported(changed):
        raise ValueError(f"{asked}: {why}")
    return changed


def engine_refusals(
    rollout: RolloutConfig,
    model: Mapping[str, Any],
    *,
    gpus: bool,
    worker_gpus: float,
    replay: ReplayConfig | None = None,
) -> list[str]:
    """``model``: config.json of the policy; ``gpus``: the engines run on GPUs; ``worker_gpus``: ray.worker_gpus;
    ``replay``: what the learner repeats, None where nobody learns."""
    ranks, backend = rollout.tensor_parallel, rollout.dsa_backend
    dsa = model["model_type"] in DSA_ARCHITECTURES
    native = dsa and (backend == "native" or (backend == "auto" and gpus))
    tensor = f"rollout.tensor_parallel={ranks}"
    uneven = uneven_part(model, ranks)
    chosen = f"rollout.dsa_backend={backend}: on GPUs the engine takes vLLM's own DSA model, which records no"
    refused = (
        (
            native and not gpus,
            "rollout.dsa_backend=native: vLLM's own DSA model needs GPUs; leave it auto",
        ),
        (
            native and replay is not None and replay.routing != "off",
            f"{chosen} experts, and replay.routing={replay and replay.routing} needs them; set replay.routing=off",
        ),
        (
            native and replay is not None and replay.indexer != "off",
            f"{chosen} choices of its indexer, and replay.indexer={replay and replay.indexer} needs them; set "
            "replay.indexer=off",
        ),
        (
            native and model.get(INDEX_PRECISION) == "int8",
            f"rollout.dsa_backend={backend}: on GPUs the engine takes vLLM's own DSA model, which does not round as "
            f"{INDEX_PRECISION}=int8 of the policy; use rollout.dsa_backend=torch, or base.index_precision=float32",
        ),
        (
            ranks > 1 and dsa and not native,
            f"{tensor}: our torch DSA model runs on one rank; set it to 1, and rollout.workers higher",
        ),
        (
            uneven is not None,
            f"{tensor}: it must divide {uneven} of the policy, of which every rank has a part",
        ),
        (
            gpus and ranks > 1 and worker_gpus != 1,
            f"ray.worker_gpus={worker_gpus:g}: each of {tensor} ranks needs a GPU of its own; set it to 1",
        ),
    )
    return [text for holds, text in refused if holds]


def uneven_part(model: Mapping[str, Any], ranks: int) -> str | None:
    """What ``ranks`` ranks cannot share evenly, with its size; None: all of it."""
    for name in _SHARED:
        if (size := model.get(name) or 0) % ranks:
            return f"{name}={size}"
    # Heads of keys and values are copied to several ranks where there are fewer of them.
    heads = model.get("num_key_value_heads")
    if heads and not model.get("kv_lora_rank") and max(heads, ranks) % min(heads, ranks):
        return f"num_key_value_heads={heads}"
    return None


def _on_gpus(ray: RayConfig) -> bool:
    """Whether engines will find a GPU: one that Ray reserves, or one of this machine that it does not hide."""
    import torch

    return ray.worker_gpus > 0 or (ray.address is None and torch.cuda.is_available())
