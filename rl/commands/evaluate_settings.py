"""Which policies `rl-eval`, `rl-chat` and `rl-gateway` take, with which settings; what `rl-eval` compares with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rl.run.paths import PACKAGE, on_the_hub, output_directory, policy_directory

if TYPE_CHECKING:
    from configs.schema import ChatConfig, EvaluateConfig, GatewayConfig

C = TypeVar("C", "EvaluateConfig", "ChatConfig", "GatewayConfig")
OF_THE_RUN = ("policy", "env", "reward", "rollout", "judge")  # settings that a run brings with it


def policies_of(cfg: EvaluateConfig) -> list[tuple[str, Path]]:
    """(name, policy directory) of everything to be evaluated. Raises ValueError with what to give."""
    given = [name for name in ("run", "runs", "path") if getattr(cfg, name)]
    if len(given) != 1:
        said = f"; got {' and '.join(given)}" if given else ""
        raise ValueError(f"rl-eval needs one of run=<name of a run>, runs=[<names>] or path=<policy directory>{said}")
    if cfg.path is not None:
        directory = policy_directory("path", cfg.path)
        return [(Path(cfg.path).name if on_the_hub(cfg.path) else directory.name, directory)]
    names = cfg.runs or [str(cfg.run)]
    if len(set(names)) != len(names):
        raise ValueError(f"runs={names}: duplicate run; name each run once")
    return [(name, run_policy(cfg.runs_dir, name)) for name in names]


def results_of(cfg: EvaluateConfig, policies: Sequence[tuple[str, Path]]) -> Path:
    """Where the results go: ``out``, else beside the policy; never into an installed package or the cache of the hub.

    Raises ValueError when it cannot be written to."""
    if cfg.out is not None:
        return output_directory("out", cfg.out)
    if cfg.runs or (cfg.path or "").startswith(PACKAGE) or on_the_hub(cfg.path or ""):
        return output_directory("runs_dir", cfg.runs_dir) / f"eval-{'+'.join(name for name, _ in policies)}"
    ((_, directory),) = policies
    return output_directory("out", directory / "eval")


def like_the_run(cfg: C, run: str | None) -> C:
    """``cfg`` with the settings that ``run`` was trained with (None: as it is): its policy format, environments,
    rewards, judge and rollout settings. What stands on the command line goes before them."""
    if run is None:
        return cfg
    from configs.schema import TrainConfig
    from rl.run.preflight import stored_settings

    trained = stored_settings(Path(cfg.runs_dir) / run, TrainConfig)
    for path in _on_the_command_line():
        _copy(cfg, trained, path)
    for group in OF_THE_RUN:
        if hasattr(cfg, group):  # `rl-gateway` has no environment
            setattr(cfg, group, getattr(trained, group))
    cfg.rollout = replace(cfg.rollout)  # the fields of both are checked together
    return cfg


def check_before_start(cfg: EvaluateConfig) -> None:
    """Raise ValueError for a budget of the sweep that cannot be, and for a ``best_of`` that could rank nothing."""
    for budget in cfg.sweep.thinking:
        replace(cfg.rollout, max_thinking=budget)
    part = cfg.reward.get(cfg.eval.best_of or "") or {}
    if part.get("weight") == 0:
        name = cfg.eval.best_of
        raise ValueError(
            f"eval.best_of={name}: reward.{name}.weight=0 makes all its terms 0; weigh it, or rank by one of its "
            f"details, eval.best_of={name}/<detail>"
        )


def baseline_of(cfg: EvaluateConfig) -> dict[str, Any] | None:
    """The summary that ``cfg.baseline`` names: of a run (its last evaluation) or an output of rl-eval.

    Raises ValueError when there is none, or nothing in it to compare with."""
    from rl.run.preflight import read_json

    if cfg.baseline is None:
        return None
    for directory in (Path(cfg.runs_dir) / cfg.baseline, Path(cfg.baseline)):
        if (directory / "summary.json").is_file():
            summary = read_json(directory / "summary.json")
            families = summary.get("eval_after", {}).get("families", {})
            if not any("tasks" in entry for entry in families.values()):
                raise ValueError(
                    f"baseline={cfg.baseline}: its summary.json has no evaluation with single tasks; evaluate it "
                    "with this version first (rl-eval)"
                )
            return summary
    raise ValueError(f"baseline={cfg.baseline}: no summary.json in '{cfg.runs_dir}/{cfg.baseline}' or '{cfg.baseline}'")


def one_policy(command: str, run: str | None, path: str | None, runs_dir: str) -> Path:
    """The policy of the run, or that in the directory. Raises ValueError with what to give."""
    if (run is None) == (path is None):
        both = "" if run is None else f"; got run={run} and path={path}"
        raise ValueError(f"{command} needs run=<name of a run> or path=<policy directory>{both}")
    return run_policy(runs_dir, run) if run is not None else policy_directory("path", str(path))


def run_policy(runs_dir: str, name: str) -> Path:
    """The last policy of the run ``name``. Raises ValueError when there is none."""
    directory = Path(runs_dir) / name / "policy"
    if not (directory / "config.json").is_file():
        raise ValueError(f"no policy at '{directory}': it has no config.json")
    return directory


def _on_the_command_line() -> list[str]:
    """Dotted paths of the settings of ``OF_THE_RUN`` that were given to this command."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from rl.commands.hydra import given_overrides

    paths = []
    for override in OverridesParser.create().parse_overrides(list(given_overrides())):
        path = override.key_or_group
        if path.split(".")[0] not in OF_THE_RUN:
            continue
        if override.is_delete():
            raise ValueError(f"~{path}: with run= or runs= set it to null instead")
        paths.append(path)
    return paths


def _copy(source: Any, target: Any, path: str) -> None:
    """``target.<path> = source.<path>`` through dataclasses and dictionaries."""
    *parents, last = path.split(".")
    for name in parents:
        source, target = _get(source, name), _get(target, name)
    value = _get(source, last)
    if isinstance(target, dict):
        target[last] = value
    else:
        setattr(target, last, value)


def _get(holder: Any, name: str) -> Any:
    return holder[name] if isinstance(holder, dict) else getattr(holder, name)
