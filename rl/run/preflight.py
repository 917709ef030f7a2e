"""What the settings name is looked at before a run has a folder: a mistake costs no time and leaves nothing behind.

What goes wrong inside ``configuration()`` is the fault of a setting: the command ends with one line
(``rl.commands.hydra``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rl.bounds import check
from rl.run.errors import explain
from rl.run.inputs import find_inputs
from rl.run.paths import output_directory, policy_directory
from rl.run.room import check_room
from rl.run.taught import check_teachers, check_untaught
from rl.tracking.rundir import RunDirError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from configs.schema import PolicyConfig, TrainConfig
    from envs.taskset import Taskset
    from rl.chat.renderer import Renderer
    from rl.learner.config import LoraConfig
    from rl.rollout.config import JudgeConfig

T = TypeVar("T")
ROLES = ("prove", "refine", "verify", "assess")  # families that self-verification trains


class ConfigurationError(ValueError):
    """A setting is wrong. The message names the field, the value and the fix."""


@contextmanager
def configuration() -> Iterator[None]:
    """Errors of the block as ConfigurationError."""
    try:
        yield
    except (ValueError, ImportError, OSError, RunDirError) as error:
        raise ConfigurationError(str(error)) from error


def typed(cfg: DictConfig) -> Any:
    """The schema's dataclass of ``cfg``. Raises ValueError for a value that is missing or that its class refuses."""
    from omegaconf import OmegaConf

    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ValueError(f"{missing[0]} is missing: give {missing[0]}=<value>")
    schema = OmegaConf.get_type(cfg)
    assert schema is not None  # every command's configuration has one
    check(OmegaConf.to_container(cfg, resolve=False), schema)  # a wrong value is named where it stands
    check(cfg, schema)  # and then wherever an interpolation takes it
    return OmegaConf.to_object(cfg)


def stored_settings(run: Path, schema: type[T]) -> T:
    """What the run in the directory ``run`` was started with, as ``schema``.

    Raises ValueError: its config.yaml is not there, is no YAML, or holds what this version does not know.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    file = run / "config.yaml"
    find_inputs(run)
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(file))
        stored: T = typed(merged)
    except FileNotFoundError as error:
        raise ValueError(f"no run at '{run}': it has no config.yaml") from error
    except (OSError, ValueError, TypeError, YAMLError, OmegaConfBaseException) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{file} cannot be used: {said}; was it edited, or written by another version?") from error
    return stored


def read_json(file: Path) -> dict[str, Any]:
    """The object in ``file``. Raises ValueError when it holds none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); remove it, or make it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no JSON object; remove it, or make it again")
    return found


def check_environments(
    taskset: Taskset, renderer: Renderer | None = None, *, thinking: bool = False, context: str = "none"
) -> None:
    """Make the first task of every family and its environment, as a rollout will, and write its prompt with
    ``renderer``. ``context``: ``rollout.context.policy``.

    Raises ValueError that says which family cannot be had: a setting that the environment does not take, data that is
    not there, a fault of its author, a prompt that the chat format has no form for (tools in an unknown markup), a
    context that nobody would rewrite.
    """
    from envs.driving import DrivingEnvironment
    from envs.environment import Environment
    from rl.run.assemble import members_of

    for family, member in members_of(taskset).items():
        try:
            task = member.task(0)
            environment = member.environment(task)
        except Exception as error:  # whatever an author's code may raise
            raise ValueError(f"env, family {family}: {explain(error)}") from error
        if isinstance(environment, DrivingEnvironment) and context not in ("none", "parallel_fewest_step"):
            raise ValueError(
                f"rollout.context.policy={context}: the program of the family {family} keeps its own history; use none"
            )
        if renderer is None or not task.prompt:
            continue
        # what the base class's reset gives: it starts nothing
        prompt = Environment.reset(environment) if isinstance(environment, Environment) else task.prompt
        try:
            renderer.render(prompt, thinking=thinking)
        except ValueError as error:
            raise ValueError(f"env, family {family}: {error}") from error


def start_directory(policy: PolicyConfig, source: str, *, config_only: bool = False) -> Path | None:
    """Where the policy lies that a run starts from: ``policy.path``, else ``base.source``; None: pre-trained now.
    ``config_only``: as for ``policy_directory``.

    Raises ValueError when there is none, for a model that cannot be trained, and for a preset that only a directory can
    give.
    """
    if policy.path is not None:
        return _trainable("policy.path", policy.path, config_only)
    if source == "scratch":
        check_preset(policy)
        return None
    if policy.preset != "tiny_dsa":
        raise ValueError(f"policy.path is missing: policy.preset={policy.preset} needs policy.path=<directory>")
    return _trainable("base.source", source, config_only)


def _trainable(field: str, setting: str, config_only: bool) -> Path:
    """The directory that ``field`` is set to. Raises ValueError when its config.json is of a model that cannot be
    trained: that is said first, whatever else is missing there."""
    from rl.policy.checkpoint_checks import read_config
    from rl.policy.supported import unsupported

    directory = policy_directory(field, setting, config_only=config_only)
    try:
        why = unsupported(read_config(directory))
    except ValueError as error:
        why = str(error)
    if why is not None:
        raise ValueError(f"{field}={setting}: {why}")
    return directory


def check_preset(policy: PolicyConfig, expert_parallel: int = 1) -> None:
    """Raise ValueError for a policy that cannot be built from nothing, or whose experts so many ranks cannot share."""
    from rl.policy.checkpoint_checks import check_spread
    from rl.policy.presets import PRESETS

    if policy.preset not in PRESETS:
        raise ValueError(
            f"policy.preset={policy.preset}: cannot be built from nothing; use {' or '.join(PRESETS)}, or give "
            "policy.path=<directory>"
        )
    if policy.renderer != "v32":
        raise ValueError(
            f"policy.renderer={policy.renderer}: a policy built from nothing has no chat template; use v32"
        )
    check_spread(PRESETS[policy.preset](1024, **policy.overrides).to_dict(), expert_parallel)


def start_renderer(policy: PolicyConfig, directory: Path, retention: str) -> Renderer:
    """The renderer of the start policy. Raises ValueError when its tokenizer is not there or does not do."""
    from rl.run.assemble import open_renderer

    try:
        renderer: Renderer = open_renderer(policy.renderer, str(directory), retention)
    except (ValueError, OSError) as error:
        said = " ".join(str(error).split())  # transformers writes paragraphs
        raise ValueError(f"policy.renderer={policy.renderer} with the tokenizer of '{directory}': {said}") from error
    return renderer


def check_policy(
    directory: Path, lora: LoraConfig | None = None, expert_parallel: int = 1, context_parallel: int = 1
) -> None:
    """Raise ValueError when the weights in ``directory`` are not what its config.json and its tokenizer say, cannot
    have the adapter that ``lora`` asks for, have no experts that ``expert_parallel`` ranks could share evenly, or no
    attention by rows, which ``context_parallel`` ranks could share."""
    from tokenizers import Tokenizer

    from rl.policy.checkpoint_checks import check_checkpoint, check_spread, read_config

    file = directory / "tokenizer.json"
    try:
        config = read_config(directory)
        check_spread(config, expert_parallel)
        if config.get("quantization_config"):
            raise ValueError(
                "its weights are quantised (quantization_config in config.json), and an engine is updated with plain "
                "ones; make a plain copy first: rl-export path=IN out=OUT dtype=float32"
            )
        tokens = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True) if file.is_file() else {}
        modules, rank = (lora.modules, lora.rank) if lora is not None and lora.rank else (None, 1)
        check_checkpoint(directory, max(tokens.values(), default=None), modules, rank, context_parallel)
    except ValueError as error:
        raise ValueError(f"policy in '{directory}': {error}") from error


def check_shared_rows(directory: Path, context_parallel: int) -> None:
    """Raise ValueError when so many ranks cannot share the rows of a pass of the policy in ``directory``; reads its
    config.json alone."""
    if context_parallel == 1:
        return
    from transformers import AutoConfig

    from rl.policy.checkpoint_checks import check_context
    from rl.policy.flops import meta_model

    try:
        check_context(meta_model(AutoConfig.from_pretrained(directory)), context_parallel)
    except ValueError as error:
        raise ValueError(f"policy in '{directory}': {error}") from error


def about_dtypes(cfg: TrainConfig) -> list[str]:
    """What is to be said when engine and learner round differently; empty when they do not."""
    if cfg.rollout.dtype == cfg.learner.compute_dtype:
        return []
    return [
        f"warning: rollout.dtype={cfg.rollout.dtype}, but learner.compute_dtype={cfg.learner.compute_dtype}: every "
        "ratio holds the difference of their rounding, and the check after a weight sync allows for it; leave "
        "rollout.dtype out"
    ]


def about_renderer(renderer: Renderer | None) -> list[str]:
    """What was found out about the model's own chat template; nothing is said about V3.2's format."""
    from rl.chat.hf_template import HFTemplateRenderer

    return [renderer.describe()] if isinstance(renderer, HFTemplateRenderer) else []


def check_judge(judge: JudgeConfig) -> None:
    """Raise ValueError when ``judge.path`` is set and no policy lies there."""
    if judge.is_worker and judge.path is not None:
        policy_directory("judge.path", judge.path)


def check_start(cfg: TrainConfig, families: Collection[str]) -> tuple[Path | None, Renderer | None]:
    """Raise ValueError when `rl-train` could not begin with these settings, whatever the weights are (``check_model``).
    ``families``: those of its tasks. Returns where the policy is that it starts from, and the renderer; None for both
    where they are made by the run."""
    from rl.run.engine_refusals import check_engine
    from rl.run.hub import check_push

    if cfg.push_to_hub is not None:
        check_push(cfg.push_to_hub)
    output_directory("runs_dir", cfg.runs_dir)
    output_directory("cache_dir", cfg.cache_dir)
    directory = start_directory(cfg.policy, cfg.base.source)
    renderer = None if directory is None else start_renderer(cfg.policy, directory, cfg.rollout.retention)
    check_judge(cfg.judge)
    check_engine(cfg.rollout, cfg.ray, cfg.policy, directory, cfg.replay, cfg.base.index_precision)
    check_room(cfg, cfg.learner)
    if cfg.pipeline.enabled and cfg.objective.distill.teachers:
        raise ValueError(
            "objective.distill.teachers with pipeline.enabled: a specialist has no teacher, and the teachers of "
            "pipeline.merge=teachers are the specialists; leave objective.distill.teachers out"
        )
    cfg.objective.check_families(families)
    if cfg.pipeline.teaches:  # refused here rather than when the specialists have been trained
        replace(cfg.objective.distill, teachers=dict.fromkeys(sorted(families), "a specialist"))
    elif not cfg.objective.distill.teachers:
        check_untaught(cfg.objective.distill)
    missing = [role for role in ROLES if role not in families]
    if cfg.self_verification.enabled and missing:
        raise ValueError(
            f"self_verification.enabled with an env without the families {', '.join(missing)}: choose env=proof"
        )
    return directory, renderer


def check_model(cfg: TrainConfig, directory: Path | None) -> None:
    """Raise ValueError when the policy in ``directory``, or a teacher of it, is not whole or not what the settings ask
    for: every file of weights is looked into. Loads torch and transformers."""
    from rl.run.ledger import open_ledger

    if directory is not None:
        check_policy(directory, cfg.learner.lora, cfg.learner.expert_parallel, cfg.learner.context_parallel)
        if cfg.budget.rl_share is not None:
            open_ledger(cfg.budget, directory, None)
    of_teacher = partial(check_policy, context_parallel=cfg.learner.context_parallel)
    check_teachers(cfg.objective, cfg.runs_dir, directory, of_teacher)
