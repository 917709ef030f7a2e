"""The policy: DSA + MLA + DeepSeekMoE in plain torch, and Hugging Face dense models, behind one protocol."""

from rl.policy.transformers_imports import install

install()
