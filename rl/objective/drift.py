"""The off-policy mask's threshold as a percentile of the drift that was seen.

    delta = percentile_q { 1/|o| sum_t log(pi_old / pi_theta) }    over the last `opsm_window` sequences

Published thresholds differ by orders of magnitude because drift depends on staleness, precision and engine. A
percentile of the run's own drift needs no such number: "p95" masks the worst twentieth, where its advantage is
negative.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from rl.objective.config import ObjectiveConfig
from rl.objective.diagnostics import percentile

# With fewer, a tail percentile is one of the two or three largest values: chance, not a distribution.
MIN_SEQUENCES = 64


class DriftWindow:
    """The drift of the last ``size`` sequences (``objective.opsm_window``)."""

    def __init__(self, size: int) -> None:
        self.values: deque[float] = deque(maxlen=size)

    def add(self, drift_S: torch.Tensor) -> None:
        """Append one drift per sequence, in nats per token; those that are not finite tell nothing and are left out."""
        self.values.extend(drift_S[drift_S.isfinite()].tolist())

    def delta(self, config: ObjectiveConfig) -> float | None:
        """The threshold for ``grpo_loss``: the number of ``config.opsm_delta``, or its percentile of the window.

        None when the mask is off, and for a percentile while fewer than ``MIN_SEQUENCES`` sequences were seen.
        """
        if config.opsm_share is None:
            return None if config.opsm_delta is None else float(config.opsm_delta)
        if len(self.values) < MIN_SEQUENCES:
            return None
        return percentile(torch.tensor(list(self.values), dtype=torch.float64, device="cpu"), config.opsm_share)

    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values.clear()
        self.values.extend(state["values"])
