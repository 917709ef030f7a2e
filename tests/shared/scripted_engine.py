"""A rollout worker whose engine is no model: tokens that follow from those before, a few milliseconds each. For tests
of what lies around engines, where vLLM would take longer to start than the test takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rollout_doubles import tokenizer

from rl.rollout.engine_api import EngineStats, GenerateRequest, Generation
from rl.rollout.worker import RolloutWorker
from rl.types import ReplayRecord

STEP_S = 0.005


class ScriptedEngine:
    """``rl.rollout.engine_api.RolloutEngine``. It speaks for as long as it may, and never ends by itself."""

    has_experts, has_indexer = True, False

    def __init__(self, version: int) -> None:
        self.version, self.awaits = version, ""
        self.vocab_size, self.max_model_len = tokenizer().vocab_size, 4096
        self._running: dict[str, tuple[GenerateRequest, list[int], list[int]]] = {}
        self._totals = EngineStats()

    def add(self, request: GenerateRequest) -> None:
        self._running[request.request_id] = (request, [], [])

    def step(self) -> list[tuple[str, Generation]]:
        time.sleep(STEP_S)
        ended = []
        for name, (request, tokens, versions) in self._running.items():
            tokens.append(8 + (sum(request.prompt_tokens) * 31 + request.seed + len(tokens) * 7) % 50)
            versions.append(self.version)
            self._totals.sampled_tokens += 1
            if len(tokens) == request.max_tokens:
                ended.append(name)
        return [(name, self._generation(name, "length")) for name in ended]

    def has_unfinished(self) -> bool:
        return bool(self._running)

    def abort(self, request_id: str) -> Generation:
        return self._generation(request_id, "abort")

    def _generation(self, name: str, reason: Any) -> Generation:
        request, tokens, versions = self._running.pop(name)
        rows = len(request.prompt_tokens) + len(tokens)
        valid = np.arange(rows) < rows - 1
        replay = ReplayRecord(valid, experts=np.full((rows, 2, 2), len(tokens) % 200, np.uint8))
        return Generation(tokens, [-1.0] * len(tokens), reason, self.version, versions, replay)

    def update_weights(self, named: Mapping[str, Any], version: int) -> float:
        self.version = version
        return 0.0

    def hold(self, why: str) -> None:
        self.awaits = why

    def stats(self) -> EngineStats:
        return self._totals

    def close(self) -> None:
        return


class ScriptedWorker(RolloutWorker):
    def _open_engine(self) -> Any:
        return ScriptedEngine(self._initial[1])
