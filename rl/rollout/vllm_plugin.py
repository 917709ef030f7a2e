"""The ``vllm.general_plugins`` entry point: DeepSeek-V3.2 and GLM-5 (DSA) on platforms vLLM has no kernels for.

vLLM loads every general plugin in each of its processes before it resolves a model class, so the
registration below holds in the driver, in a Ray actor and in vLLM's own worker processes alike.

``SPECIALE_DSA_BACKEND`` says who runs them: ``torch`` (this package's plain-torch model over the paged cache),
``native`` (vLLM's CUDA model) or ``auto`` (the default): native on CUDA, torch elsewhere.
"""

from __future__ import annotations

import os

from rl.policy.supported import DSA_ARCHITECTURES
from rl.rollout.config import BACKENDS

BACKEND_VARIABLE = "SPECIALE_DSA_BACKEND"


def dsa_backend_here() -> str:
    """``native`` or ``torch``, as it holds on this machine. Errors: an unknown value of the variable."""
    from vllm.platforms import current_platform

    asked = os.environ.get(BACKEND_VARIABLE, "auto")
    if asked not in BACKENDS:
        raise ValueError(f"{BACKEND_VARIABLE}={asked!r}: must be one of {', '.join(BACKENDS)}")
    if asked != "auto":
        return asked
    return "native" if current_platform.is_cuda() else "torch"


def register() -> None:
    """Point vLLM's registry at our model class when the torch backend is the one to use."""
    if dsa_backend_here() != "torch":
        return
    # vLLM sees `kv_lora_rank` in the config and would plan for its own MLA kernels (a fixed latent
    # size, no prefix caching on CPU); our layers bring their own cache layout instead.
    os.environ["VLLM_MLA_DISABLE"] = "1"
    from vllm import ModelRegistry
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    # vLLM reads deepseek_v32 with DeepSeek-V3's configuration class and renames that class for the whole process: what
    # is then saved of a DeepSeek-V3 calls itself deepseek_v32. transformers has a class of its own for V3.2.
    _CONFIG_REGISTRY.pop("deepseek_v32", None)

    from rl.rollout.vllm_model import DSAForVLLM

    # The class itself, not "module:class": vLLM inspects a name in a subprocess, which costs seconds.
    for architecture in DSA_ARCHITECTURES.values():
        ModelRegistry.register_model(architecture, DSAForVLLM)
