"""The field lists of docs/configuration.md, made from the dataclasses that are the schema.

``python -m configs.reference docs/configuration.md`` rewrites what is between the page's two markers; the
prose around them is written by hand. Name, default and type come from the dataclass, the meaning from the comments in
its source, so that there is one place to change.
"""

from __future__ import annotations

import ast
import inspect
import io
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from omegaconf import OmegaConf

from configs.schema import (
    AdaptConfig,
    AdaptDataConfig,
    AdaptStageConfig,
    AgreementConfig,
    BaseConfig,
    BudgetConfig,
    ChatConfig,
    ColdStartConfig,
    ColdStartRunConfig,
    CompareConfig,
    CorpusConfig,
    DenseStageConfig,
    DistillConfig,
    DoctorConfig,
    EvalConfig,
    EvaluateConfig,
    ExportConfig,
    GatewayConfig,
    HardwareConfig,
    PipelineConfig,
    PolicyConfig,
    PretrainConfig,
    RayConfig,
    SelfVerificationConfig,
    SparseStageConfig,
    SweepConfig,
    TrainConfig,
    ViewConfig,
)
from rewards.format import FormatPenalty
from rewards.judge import EndpointJudge
from rewards.language import LanguageConsistency
from rewards.length import Length
from rewards.outcome import Outcome
from rewards.proof import GeneratorReward, MetaReward, VerifierReward
from rewards.repetition import Repetition
from rewards.rubric import Rubric
from rl.bounds import OneOf, field_types, marks, wanted
from rl.chat.context_manager import ContextConfig
from rl.data.needles import NeedleTask
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

# (heading or group name, the class)
COMMANDS: tuple[tuple[str, type], ...] = (
    ("`rl-train`", TrainConfig),
    ("`rl-eval`", EvaluateConfig),
    ("`rl-chat`", ChatConfig),
    ("`rl-gateway`", GatewayConfig),
    ("`rl-compare`", CompareConfig),
    ("`rl-judge`", AgreementConfig),
    ("`rl-doctor`", DoctorConfig),
    ("`rl-view`", ViewConfig),
    ("`rl-coldstart`", ColdStartRunConfig),
    ("`rl-pretrain`", PretrainConfig),
    ("`rl-adapt`", AdaptConfig),
    ("`rl-export`", ExportConfig),
)
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
OVERLAY = "demo"  # the overlay that rl-train composes unless told otherwise


@cache
def comments(cls: type) -> dict[str, str]:
    """Meaning of every field that ``cls`` itself defines, from its source.

    A comment on the field's own lines counts; else the comment lines right above it, which then also hold for the
    uncommented fields that follow without a blank line (``# AdamW.`` above five settings).
    """
    source = textwrap.dedent(inspect.getsource(cls))
    by_line: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            by_line[token.start[0]] = token.string.lstrip("# ").rstrip()
    lines = source.splitlines()
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    shared, expected = "", 0  # the last comment from above, and the line on which it still holds
    for node in body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        last = node.end_lineno or node.lineno
        own = " ".join(by_line[n] for n in range(node.lineno, last + 1) if n in by_line)
        first = node.lineno
        while first > 1 and lines[first - 2].lstrip().startswith("#"):
            first -= 1
        above = " ".join(by_line[n] for n in range(first, node.lineno))
        if not own:
            if above:
                shared = above
            elif node.lineno != expected:
                shared = ""
            expected = last + 1
        found[node.target.id] = own or shared
    return found


def meaning(cls: type, name: str) -> str:
    """The comment of the most derived class that has one for the field ``name``."""
    for owner in cls.__mro__:
        if is_dataclass(owner) and name in inspect.get_annotations(owner):
            text = comments(owner).get(name, "")
            if text:
                return text
    return ""


def default(item: Field[Any]) -> Any:
    """The field's default value; ``MISSING`` when it must be given."""
    return item.default_factory() if item.default_factory is not MISSING else item.default


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is MISSING:
        return "required"
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`[{','.join(map(str, value))}]`"
    if isinstance(value, Mapping) and value:
        return "`{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}`"
    return f"`{value}`" if value != "" else '`""`'


def overlay() -> dict[str, Any]:
    """Values that the default experiment overlay sets, by dotted name."""
    text = files("configs").joinpath("experiment", f"{OVERLAY}.yaml").read_text()
    return dict(_flat(OmegaConf.to_container(OmegaConf.create(text)), ""))


def _flat(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key != "defaults":
                yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), node


def kind(hint: Any) -> str:
    """A type in the words of a configuration file: ``list[int] | None`` is "list of int or null"; with its bound."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([kind(inner[0]), *(wanted(mark) for mark in marks(hint) if not isinstance(mark, OneOf))])
    if origin in (Union, UnionType):
        words = [kind(member) for member in inner]
        return f"{', '.join(words[:-1])}{',' if ', ' in words[0] else ''} or {words[-1]}"
    if origin is dict:
        return "mapping" if inner[1] is Any else f"mapping to {kind(inner[1])}"
    if origin is tuple and inner[-1] is not ...:
        return f"[{', '.join(map(kind, inner))}]"
    if origin in (list, tuple):
        member = kind(inner[0])
        return "list" if inner[0] is Any else f"list of ({member})" if " " in member else f"list of {member}"
    if hint is Any:
        return "any"
    if isinstance(hint, type):
        return {NoneType: "null", dict: "mapping", tuple: "list"}.get(hint, hint.__name__)
    raise ValueError(f"type {hint!r} has no words for it: add them to configs.reference.kind")


def members(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and default of every member of ``cls`` that is a config class itself, at any depth."""
    for item in fields(cls):
        value = default(item)
        if is_dataclass(value) and not isinstance(value, type):
            yield f"{prefix}{item.name}", value
            yield from members(type(value), f"{prefix}{item.name}.")


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
