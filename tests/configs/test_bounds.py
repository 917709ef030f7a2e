"""Every number of every schema has a bound, every choice its words, and a value outside is one line with its path."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Interval
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from configs.fields import COMMANDS, meaning
from configs.schema import EvalConfig, register
from rl.bounds import (
    Bounded,
    FolderName,
    Matches,
    NonNegativeInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
    Share,
    field_types,
    marks,
    wanted,
)
from rl.learner.config import LearnerConfig
from rl.run.preflight import typed

CONFIGS = {
    "`rl-train`": "train", "`rl-eval`": "evaluate", "`rl-compare`": "compare", "`rl-judge`": "agreement",
    "`rl-doctor`": "doctor", "`rl-coldstart`": "coldstart", "`rl-pretrain`": "pretrain", "`rl-adapt`": "adapt",
    "`rl-chat`": "chat", "`rl-view`": "view", "`rl-export`": "export",
    "`rl-gateway`": "gateway",
}  # fmt: skip
NEEDS = {
    "adapt": ["experiment=needle"],
    "agreement": [],
    "export": ["path=x", "out=y"],
}  # what a configuration needs to be whole


@cache
def composed(name: str) -> DictConfig:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        return compose(name, NEEDS.get(name, []))


def plain(hint: Any) -> Any:
    """``hint`` without "or null", and of a list's or mapping's members."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) in (list, dict):
        return plain(get_args(hint)[-1])
    return hint


def leaves(kind: type, prefix: str = "") -> Iterator[tuple[type, str, str, Any]]:
    """(class, field, dotted path, type) of every field of ``kind`` and of the dataclasses in it."""
    for name, hint in field_types(kind).items():
        inner = plain(hint)
        if is_dataclass(inner) and isinstance(inner, type):
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield kind, name, f"{prefix}{name}", hint


ALL = [(CONFIGS[title], *leaf) for title, cls in COMMANDS for leaf in leaves(cls)]


def test_every_number_has_a_bound() -> None:
    base = {path: get_args(plain(hint))[0] if marks(plain(hint)) else plain(hint) for _, _, _, path, hint in ALL}
    assert sum(kind in (int, float) for kind in base.values()) > 150
    assert [path for _, _, _, path, hint in ALL if plain(hint) in (int, float)] == []


def test_every_choice_has_its_words_and_the_comment_says_what_they_mean() -> None:
    for _, cls, name, path, hint in ALL:
        text, (mark, *_) = meaning(cls, name), marks(plain(hint)) or (None,)
        if isinstance(mark, OneOf):
            assert all(word in text for word in mark.words), f"{path}: its comment leaves out one of {mark.words}"
        if plain(hint) is str:
            assert " | " not in text, f"{path}: its comment lists words, its type does not"


def outside(mark: Any) -> Any:
    """A value that ``mark`` does not allow."""
    match mark:
        case Ge(ge=least):
            return least - 1
        case Gt(gt=least):
            return least
        case Interval(ge=least) if least is not None:
            return least - 1
        case Interval(gt=least):
            return least
        case OneOf():
            return "no such word"
        case Matches():
            return "no/such/name"
    raise AssertionError(mark)


BOUNDED = [(config, path, hint) for config, _, _, path, hint in ALL if marks(plain(hint)) and "prices" not in path]


def refusal(cfg: DictConfig, path: str, value: Any) -> str:
    """What ``typed`` says of ``cfg`` with this value; ``cfg`` stays as it was."""
    parent, _, name = path.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    before = deepcopy(node._get_node(name))
    node[name] = value
    with pytest.raises(ValueError) as refused:
        typed(cfg)
    node._content[name] = before
    return str(refused.value)


@pytest.mark.parametrize("config", sorted(CONFIGS.values()))
def test_a_value_outside_is_refused_by_its_path(config: str) -> None:
    tried, cfg = 0, deepcopy(composed(config))
    for _, path, hint in (one for one in BOUNDED if one[0] == config):
        (mark,) = marks(plain(hint))
        values = [outside(mark), *([float("nan")] if get_args(plain(hint))[0] is float else [])]
        for value in values:
            listed = get_origin(hint) is list or list in map(get_origin, get_args(hint))
            mapped = get_origin(hint) is dict
            said = refusal(cfg, path, [value] if listed else {"one": value} if mapped else value)
            assert said.startswith(f"{path}{'[0]' if listed else '.one' if mapped else ''}="), said
            assert "\n" not in said
            assert "must be a finite number" in said or wanted(mark) in said
            tried += 1
    assert tried or config == "compare"


@pytest.mark.parametrize("config", sorted(CONFIGS.values()))
def test_the_defaults_are_allowed(config: str) -> None:
    typed(composed(config))


@pytest.mark.parametrize(
    ("config", "override", "said"),
    [
        ("train", "group_size=1", "group_size=1: must be at least 2"),
        ("train", "steps=-1", "steps=-1: must be at least 1"),
        ("train", "name=../x", "name='../x': must be the name of a folder, not a path, or null"),
        ("train", "coldstart.lr=nan", "coldstart.lr=nan: must be a finite number"),
        ("train", "learner.beta1=2", "learner.beta1=2.0: must be in [0, 1)"),
        ("train", "pipeline.distill.lr=-1", "pipeline.distill.lr=-1.0: must be above 0"),
        ("train", "self_verification.merge.epochs=0", "self_verification.merge.epochs=0.0: must be above 0"),
        ("train", "rollout.temperature=0", "objective.temperature=0.0: must be above 0"),
        ("train", "cost.prices={m: {input: -1}}", "cost.prices.m.input=-1.0: must be 0 or more, or null"),
        ("train", "learner.max_tokens_per_microbatch=100", "must be at least rollout.max_context=1024"),
        ("evaluate", "eval.ks=[0]", "eval.ks[0]=0: must be at least 1"),
        ("evaluate", "sweep.thinking=[8,-1]", "sweep.thinking[1]=-1: must be at least 1, or null"),
        ("adapt", "sparse.schedule=stairs", "sparse.schedule='stairs': must be one of constant, cosine, linear"),
        ("adapt", "dense.warmup_steps=100000", "dense.warmup_steps=100000: must be below the sum of dense.steps"),
        ("doctor", "device=tpu", "device='tpu': must be auto, cpu, cuda or cuda:<number>"),
    ],
)
def test_what_is_said(config: str, override: str, said: str) -> None:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose(config, [*NEEDS.get(config, []), override])
    with pytest.raises(ValueError) as refused:
        typed(cfg)
    assert said in str(refused.value)


@dataclass
class _Inner(Bounded):
    section = "inner"

    share: Share = 0.5


@dataclass
class _Outer(Bounded):
    count: PositiveInt | None = None
    rate: PositiveFloat = 1.0
    name: FolderName = "x"
    sizes: list[NonNegativeInt] | None = None
    odd: Annotated[float, Interval(gt=0, le=1)] = 1.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 0}, "count=0: must be at least 1, or null"),
        ({"rate": float("inf")}, "rate=inf: must be a finite number"),
        ({"name": ""}, "name='': must be the name of a folder"),
        ({"name": ".."}, "name='..': must be the name of a folder"),
        ({"name": "a\nb"}, "must be the name of a folder"),
        ({"sizes": [1, -1]}, r"sizes[1]=-1: must be 0 or more"),
        ({"odd": 0.0}, "odd=0.0: must be in (0, 1]"),
        ({"odd": 1.5}, "odd=1.5: must be in (0, 1]"),
    ],
)
def test_objects_check_themselves(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        _Outer(**values)
    assert said in str(refused.value)


def test_the_edges_are_allowed() -> None:
    _Outer(count=1, rate=1e-12, name="a b..c", sizes=[0], odd=1.0)
    _Inner(share=0.0)
    _Inner(share=1.0)
    with pytest.raises(ValueError, match=r"^inner\.share=1\.1: must be in \[0, 1\]$"):
        _Inner(share=1.1)
    with pytest.raises(ValueError, match=r"^learner\.lr=0: must be above 0$"):
        LearnerConfig(lr=0)
    with pytest.raises(ValueError, match=r"^eval\.ks=\[\]: every size"):
        EvalConfig(ks=[])
