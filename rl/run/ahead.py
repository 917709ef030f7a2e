"""What of a run is begun before all is looked at: Ray, and the processes of its rollout workers, which load vLLM.

Both take longer than the rest of the start, and need nothing but the configuration. While this process waits for Ray it
loads torch and transformers, for the checks that follow.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rl.policy.importing import without_collector

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from rl.rollout.placing import Placing


@contextmanager
def begun(cfg: TrainConfig) -> Iterator[Placing]:
    """A Ray for the length of the block (``rl.run.assemble.cluster``), and in it the places of the rollout workers of
    ``cfg`` with their processes (for ``open_pool``), which nobody waits for. What is in the block when it is left has
    ended."""
    from rl.rollout.worker import RolloutWorker
    from rl.run.assemble import cluster, places_of
    from rl.run.room import cpus_beside_learner

    loading = threading.Thread(target=_load, name="loading", daemon=True)
    loading.start()
    cpus = cpus_beside_learner(cfg.rollout, cfg.judge, cfg.ray) + cfg.learner.ranks
    with cluster(cfg.ray, cpus, cfg.deterministic):
        placing = places_of(cfg)
        placing.begin(RolloutWorker, ahead=cfg.rollout)
        loading.join()  # what could not be imported is said where it is needed
        try:
            yield placing
        finally:
            placing.end_begun()


def _load() -> None:
    with without_collector():
        import rl.policy.loading  # noqa: F401
        from rl.policy.transformers_imports import config_class

        config_class("deepseek_v32")  # whichever is asked for loads transformers
