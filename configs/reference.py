"""The field lists of docs/configuration.md, made from the dataclasses that are the schema.

``python -m configs.reference docs/configuration.md`` rewrites what is between the page's two markers; the
prose around them is written by hand. Name, default and type come from the dataclass, the meaning from the comments in
its source, so that there is one place to change.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from configs.fields import COMMANDS, OVERLAY, default, kind, meaning, members, overlay, shown
from configs.schema import (
    AdaptDataConfig,
    AdaptStageConfig,
    BaseConfig,
    BudgetConfig,
    ColdStartConfig,
    CorpusConfig,
    DenseStageConfig,
    DistillConfig,
    EvalConfig,
    HardwareConfig,
    PipelineConfig,
    PolicyConfig,
    RayConfig,
    SelfVerificationConfig,
    SparseStageConfig,
    SweepConfig,
    TrainConfig,
)
from rewards.format import FormatPenalty
from rewards.judge import EndpointJudge
from rewards.language import LanguageConsistency
from rewards.length import Length
from rewards.outcome import Outcome
from rewards.proof import GeneratorReward, MetaReward, VerifierReward
from rewards.repetition import Repetition
from rewards.rubric import Rubric
from rl.bounds import field_types
from rl.chat.context_manager import ContextConfig
from rl.data.needle_task import NeedleTask
from rl.learner.config import LearnerConfig, LoraConfig, ReplayConfig
from rl.objective.config import ObjectiveConfig, TeachingConfig
from rl.proof.config import LabelConfig
from rl.rollout.config import JudgeConfig, RolloutConfig
from rl.rollout.judge_actor import WorkerJudge
from rl.tracking.config import TrackingConfig
from rl.tracking.cost import CostConfig, PriceConfig
from rl.tracking.metrics import entry, paragraph

BEGIN = "<!-- fields: made by `python -m configs.reference docs/configuration.md`; do not edit below -->"
END = "<!-- end of fields -->"

# (group name, the class)
GROUPS: tuple[tuple[str, type], ...] = (
    ("policy", PolicyConfig),
    ("base", BaseConfig),
    ("base.corpus", CorpusConfig),
    ("coldstart", ColdStartConfig),
    ("data", AdaptDataConfig),
    ("data.needles", NeedleTask),
    ("dense", DenseStageConfig),
    ("warmup", AdaptStageConfig),
    ("sparse", SparseStageConfig),
    ("rollout", RolloutConfig),
    ("rollout.context", ContextConfig),
    ("objective", ObjectiveConfig),
    ("objective.distill", TeachingConfig),
    ("learner", LearnerConfig),
    ("learner.lora", LoraConfig),
    ("replay", ReplayConfig),
    ("pipeline", PipelineConfig),
    ("pipeline.distill", DistillConfig),
    ("self_verification", SelfVerificationConfig),
    ("self_verification.labels", LabelConfig),
    ("self_verification.merge", DistillConfig),
    ("budget", BudgetConfig),
    ("eval", EvalConfig),
    ("sweep", SweepConfig),
    ("tracking", TrackingConfig),
    ("cost", CostConfig),
    ("cost.prices.NAME", PriceConfig),
    ("ray", RayConfig),
    ("hardware", HardwareConfig),
    ("judge", JudgeConfig),
    ("judge.client (worker)", WorkerJudge),
    ("judge.client (endpoint)", EndpointJudge),
    ("reward.outcome", Outcome),
    ("reward.format", FormatPenalty),
    ("reward.length", Length),
    ("reward.language", LanguageConsistency),
    ("reward.repetition", Repetition),
    ("reward.verifier", VerifierReward),
    ("reward.meta", MetaReward),
    ("reward.generator", GeneratorReward),
    ("reward.rubric", Rubric),
)


def entries(
    cls: type, prefix: str = "", overlaid: Mapping[str, Any] | None = None, member: Any | None = None
) -> list[str]:
    """Markdown list items of one class; members that are config classes themselves have lists of their own.

    ``member``: the instance that is the group's default, where it differs from the defaults of its class.
    """
    items = []
    for item in fields(cls):
        value = default(item) if member is None else getattr(member, item.name)
        if is_dataclass(value):
            continue
        name = f"{prefix}{item.name}"
        note = kind(field_types(cls)[item.name])
        if overlaid and name in overlaid and overlaid[name] != value:
            note += f"; {OVERLAY}: {shown(overlaid[name])}"
        items.append(entry(f"**`{name}`** = {shown(value)} ({note})", meaning(cls, item.name)))
    return items


def reference() -> str:
    """Everything between the markers, markers included."""
    overlaid = overlay()
    out = [BEGIN, "", "## Commands", ""]
    for title, cls in COMMANDS:
        groups = [item.name for item in fields(cls) if is_dataclass(default(item))]
        links = ", ".join(f"[{name}](#{name})" for name in groups)
        contents = f"Groups: {links}. Fields of its own:" if groups else "Fields:"
        out += [f"### {title}", "", _purpose(cls), "", paragraph(contents), ""]
        out += [*entries(cls, overlaid=overlaid if cls is TrainConfig else None), ""]
    defaults = {name: value for _, cls in reversed(COMMANDS) for name, value in members(cls)}  # rl-train's count
    out += ["## Groups", ""]
    for name, cls in GROUPS:
        out += [f"### {name}", "", _purpose(cls), "", *entries(cls, f"{name}.", overlaid, defaults.get(name)), ""]
    return "\n".join([*out, END])


def _purpose(cls: type) -> str:
    return paragraph((inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`"))


def updated(page: str) -> str:
    """``page`` with fresh lists. Raises ValueError when a marker is missing."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs each of these lines once: {BEGIN!r}, {END!r}")
    head, rest = page.split(BEGIN)
    return head + reference() + rest.split(END)[1]


def main() -> None:
    """Rewrite the page named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m configs.reference docs/configuration.md")
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text()))


if __name__ == "__main__":
    main()
