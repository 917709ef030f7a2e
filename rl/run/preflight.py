"""What the settings name is looked at before a run has a folder: a mistake costs no time and leaves nothing behind.

What goes wrong inside ``configuration()`` is the fault of a setting: the command ends with one line
(``rl.commands.hydra``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rl.run.paths import policy_directory
from rl.tracking.rundir import RunDirError

if TYPE_CHECKING:
    from configs.schema import PolicyConfig, TrainConfig
    from rl.chat.renderer import Renderer
    from rl.rollout.config import JudgeConfig

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


def start_directory(policy: PolicyConfig, source: str) -> Path | None:
    """Where the policy lies that a run starts from: ``policy.path``, else ``base.source``; None: pre-trained now.

    Raises ValueError when there is none, and for a preset that only a directory can give.
    """
    if policy.path is not None:
        return policy_directory("policy.path", policy.path)
    if source == "scratch":
        check_preset(policy)
        return None
    if policy.preset != "tiny_dsa":
        raise ValueError(f"policy.path is missing: policy.preset={policy.preset} needs policy.path=<directory>")
    return policy_directory("base.source", source)


def check_preset(policy: PolicyConfig) -> None:
    """Raise ValueError for a policy that cannot be built from nothing."""
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
    if policy.overrides:
        PRESETS[policy.preset](1024, **policy.overrides)


def start_renderer(policy: PolicyConfig, directory: Path, retention: str) -> Renderer:
    """The renderer of the start policy. Raises ValueError when its tokenizer is not there or does not do."""
    from rl.run.assemble import open_renderer

    try:
        renderer: Renderer = open_renderer(policy.renderer, str(directory), retention)
    except (ValueError, OSError) as error:
        raise ValueError(f"policy.renderer={policy.renderer} with the tokenizer of '{directory}': {error}") from error
    return renderer


def check_judge(judge: JudgeConfig) -> None:
    """Raise ValueError when ``judge.path`` is set and no policy lies there."""
    if judge.is_worker and judge.path is not None:
        policy_directory("judge.path", judge.path)


def check_start(cfg: TrainConfig, families: Collection[str]) -> None:
    """Raise ValueError when `rl-train` could not begin with these settings. ``families``: those of its tasks."""
    from rl.run.ledger import open_ledger

    directory = start_directory(cfg.policy, cfg.base.source)
    if directory is not None:
        start_renderer(cfg.policy, directory, cfg.rollout.retention)
        if cfg.budget.rl_share is not None:
            open_ledger(cfg.budget, directory, None)
    check_judge(cfg.judge)
    cfg.objective.check_families(families)
    missing = [role for role in ROLES if role not in families]
    if cfg.self_verification.enabled and missing:
        raise ValueError(
            f"self_verification.enabled with an env without the families {', '.join(missing)}: choose env=proof"
        )
