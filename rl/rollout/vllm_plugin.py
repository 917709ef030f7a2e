"""The ``vllm.general_plugins`` entry point: DeepSeek-V3.2 (DSA) on platforms vLLM has no kernels for.

vLLM loads every general plugin in each of its processes before it resolves a model class, so the
registration below holds in the driver, in a Ray actor and in vLLM's own worker processes alike.

``SPECIALE_DSA_BACKEND`` says who runs ``DeepseekV32ForCausalLM``: ``torch`` (this package's plain-torch
model over the paged cache), ``native`` (vLLM's CUDA model) or ``auto`` (the default): native on CUDA, torch
elsewhere.
"""

from __future__ import annotations

import os

from rl.rollout.config import BACKENDS

BACKEND_VARIABLE = "SPECIALE_DSA_BACKEND"
ARCHITECTURE = "DeepseekV32ForCausalLM"


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

    from rl.rollout.vllm_model import DSAForVLLM

    # The class itself, not "module:class": vLLM inspects a name in a subprocess, which costs seconds.
    ModelRegistry.register_model(ARCHITECTURE, DSAForVLLM)
