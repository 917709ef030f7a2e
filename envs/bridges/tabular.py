"""Value iteration on the model of a small Gymnasium environment: the oracle of FrozenLake, Taxi and CliffWalking.

``P[state][action]`` is a list of (probability, next state, reward, terminated), as ``env.unwrapped.P`` has it::

    V(s) = max_a Σ p (r + γ V(s') [not terminated])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Model = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]


def best_actions(model: Model, discount: float = 0.99, tolerance: float = 1e-9) -> dict[int, int]:
    """The best action of every state; ties go to the lowest action, so that an oracle is deterministic.

    ``discount`` below 1 makes the shorter of two ways the better one.
    """
    value = dict.fromkeys(model, 0.0)

    def worth(outcomes: Sequence[tuple[float, int, float, bool]]) -> float:
        return sum(p * (r + (0.0 if end else discount * value[int(s)])) for p, s, r, end in outcomes)

    change = 1.0
    while change > tolerance:
        change = 0.0
        for state, actions in model.items():
            new = max(worth(outcomes) for outcomes in actions.values())
            change = max(change, abs(new - value[state]))
            value[state] = new
    # rounding keeps equal values equal
    return {s: min(a, key=lambda i: (-round(worth(a[i]), 7), i)) for s, a in model.items()}
