"""The learning half of the project on a GPU machine that has torch, transformers and pytest, but no Ray and no vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HIDDEN = (
    "ray", "vllm", "datasets", "wandb", "hydra", "omegaconf", "rich", "starlette", "uvicorn", "tantivy", "math_verify",
    "latex2sympy2_extended", "peft", "accelerate", "hypothesis",
)  # fmt: skip
SCRIPT = """
import importlib, pkgutil, sys

class Without:
    # A finder that does not find what is hidden, as if it were not installed.

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import rl.learner, rl.objective, rl.policy
for package in (rl.learner, rl.objective, rl.policy):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""


def test_policy_objective_and_learner_import_without_the_rest() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"HIDDEN = {HIDDEN!r}\n{SCRIPT}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_gpu_tests_are_found_without_the_rest() -> None:
    """``pytest -m gpu`` imports only files of such tests, and those ask for nothing that is hidden."""
    hide = f"HIDDEN = {HIDDEN!r}\n{SCRIPT.split('import rl.')[0]}"
    command = "import pytest; sys.exit(pytest.main(['-q', '-m', 'gpu', '--collect-only', '-p', 'no:cacheprovider', "
    command += "'tests/policy', 'tests/learner', 'tests/objective']))"
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # pytest without what is installed beside it
    done = subprocess.run(
        [sys.executable, "-c", f"{hide}\n{command}"], cwd=ROOT, env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for file in ("policy/test_gpu_policy.py", "learner/test_gpu_learner.py", "objective/test_gpu_objective.py"):
        assert f"tests/{file}" in done.stdout
