"""What a run's reward is, in plain words: the sum, and whether any of it depends on how long an episode is.

The second is what separates a length-penalised run from an unpenalised one, so every part says it of itself
(``PartOptions.length_use``), and the run prints it, keeps it in summary.json and shows it in report.html.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.part import GroupPart, PartOptions
from rewards.schedule import Schedule, read_weight

_LIMITS = "Token limits of the rollout still cut episodes off; those are scored as they stand."


def sum_statement(parts: Sequence[PartOptions]) -> str:
    """``Reward = 1 × outcome + 0.1 × length``, with schedules and families where a part has them."""
    return "Reward = " + " + ".join(_term(part) for part in parts)


def length_statement(parts: Sequence[PartOptions]) -> str:
    """One paragraph: which terms depend on length and how, or that none does."""
    used = [(part, part.length_use()) for part in parts if not _always_zero(part)]
    direct = [f"{part.name} ({_weight(part)}) {use.how}" for part, use in used if use.kind == "direct"]
    indirect = [f"{part.name} is {use.how}" for part, use in used if use.kind == "indirect"]
    selects = [f"{part.name}: {use.how}" for part, use in used if use.kind == "selects"]
    silent = [part.name for part, use in used if use.kind == "undeclared"]
    says = []
    if direct:
        says.append(f"The reward depends on length: {'; '.join(direct)}.")
    elif silent:
        says.append(f"Whether the reward depends on length is not known: {', '.join(silent)} does not say.")
    else:
        says.append("No term of the reward depends on how many tokens the thinking or the answer takes.")
    if direct and silent:
        says.append(f"Of {', '.join(silent)} it is not known.")
    if indirect:
        says.append(f"By the text alone: {'; '.join(indirect)}.")
    says.append(f"Not trained on: {'; '.join(selects)}." if selects else _LIMITS)
    return " ".join(says)


def _always_zero(part: PartOptions) -> bool:
    """Whether no value of the part can reach the sum. One that masks still counts."""
    if part.length_use().kind == "selects":
        return False
    weight = read_weight(part.name, part.weight)
    return weight == 0 if not isinstance(weight, Schedule) else weight.start == weight.end == 0


def _term(part: PartOptions) -> str:
    where = f" (of {', '.join(part.families)})" if part.families else ""
    group = " (over the group)" if isinstance(part, GroupPart) else ""
    weight = read_weight(part.name, part.weight)
    number = f"[{weight}]" if isinstance(weight, Schedule) else f"{weight:g}"
    return f"{number} × {part.name}{where}{group}"


def _weight(part: PartOptions) -> str:
    weight = read_weight(part.name, part.weight)
    return f"weight {weight}" if isinstance(weight, Schedule) else f"weight {weight:g}"
