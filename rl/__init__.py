"""RL post-training for LLM agents; see docs/architecture.md.

    import rl

    run = rl.train(model="my_model", data="questions.jsonl", reward=my_reward, experiment="my_model")

``train``, ``evaluate``, ``Run`` and ``ConfigurationError`` are loaded when they are first used (rl.commands.python).
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl.commands.python import Run as Run
    from rl.commands.python import evaluate as evaluate
    from rl.commands.python import train as train
    from rl.run.preflight import ConfigurationError as ConfigurationError

# Learner and rollout engines share cores on small machines. OpenMP threads that spin at their barriers then starve each
# other (measured: an engine next to another CPU job fell from 2,500 to 105 tokens/s). It must be set before torch is
# imported, in every process, and every process imports this package first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PLACES = {
    "train": "rl.commands.python",
    "evaluate": "rl.commands.python",
    "Run": "rl.commands.python",
    "ConfigurationError": "rl.run.preflight",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'rl' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
