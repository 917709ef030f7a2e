"""The quick ways around transformers' imports give what the slow ones give."""

from __future__ import annotations

import subprocess
import sys

import pytest
from transformers import CONFIG_MAPPING, DeepseekV32Config, GlmMoeDsaConfig

from rl.policy import supported
from rl.policy.transformers_imports import config_class

PACKAGES = """
import importlib.metadata
slow = importlib.metadata.packages_distributions
import rl.policy
quick = importlib.metadata.packages_distributions
assert quick is not slow
one, two = ({k: sorted(v) for k, v in listed().items()} for listed in (slow, quick))
assert one == two, [(k, one.get(k), two.get(k)) for k in one.keys() | two.keys() if one.get(k) != two.get(k)]
from transformers.utils import import_utils
assert import_utils.PACKAGE_DISTRIBUTION_MAPPING == quick()
assert len(two) > 50
"""
MODELS = """
import sys
from rl.policy.transformers_imports import config_class
from rl.run.paths import resolve
from rl.policy.supported import dsa_config
config = dsa_config(resolve("pkg://rl.bases/tiny_dsa_base"))
loaded = [name for name in ("torch._dynamo", "transformers.generation.utils") if name in sys.modules]
assert not loaded, loaded
from transformers import AutoModelForCausalLM, AutoConfig, DeepseekV32Config
assert type(config) is DeepseekV32Config
assert AutoConfig.for_model("deepseek_v32").__class__ is DeepseekV32Config
assert AutoModelForCausalLM.from_config  # it can be loaded all the same
assert "transformers.generation.utils" in sys.modules
"""


@pytest.mark.parametrize("code", [PACKAGES, MODELS], ids=["packages", "models"])
def test_in_a_new_process(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_the_classes_are_transformers_own() -> None:
    assert (config_class("deepseek_v32"), config_class("glm_moe_dsa")) == (DeepseekV32Config, GlmMoeDsaConfig)
    assert config_class("llama") is CONFIG_MAPPING["llama"]
    assert config_class("of-nobody") is None


@pytest.mark.parametrize("kind", supported._ALIKE)
def test_no_family_that_is_known_keeps_a_state(kind: str) -> None:
    """What ``supported`` takes for granted of them."""
    assert not supported._keeps_state(kind)
