"""`rl.train` and `rl.evaluate`: the commands rl-train and rl-eval from Python, in a script or a notebook.

    run = rl.train(model="my_model", data=rows, reward=last_word, experiment="my_model", steps=40)
    run.summary["eval_after"]["overall"], run.policy_path, run.report

The arguments become overrides of the same configuration, and ``rl.commands`` runs it: the same checks, files, cache and
``rl-train resume=``. What has no place in a configuration is written into the run's folder ``inputs/``: rows given as a
list as ``rows.jsonl``, the source of a function or class of ``__main__`` as a module (``rl.run.function_source``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.commands.hydra import composed, giving

if TYPE_CHECKING:
    from envs.taskset import Taskset

Data = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | type["Taskset"]
Reward = str | Callable[..., Any]
ROWS = "rows.jsonl"
ROWS_GROUP, OWN_AGENT = "env=dataset", "env=own_agent"
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*([.:]\w+)+")
NOT_TEXT = {"true", "false", "null", "inf", "nan"}  # unquoted words that Hydra reads as something else


@dataclass(frozen=True)
class Run:
    """What `rl.train` or `rl.evaluate` left on disk, in the folder ``path``."""

    path: Path
    policy_path: Path  # the policy in Hugging Face format, with its tokenizer

    @property
    def name(self) -> str:
        """``rl-eval run=<name>``, ``rl-train resume=<name>``; of an evaluation the folder's name."""
        return self.path.name

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json (rl.tracking.summary)."""
        found: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return found

    @property
    def report(self) -> Path:
        """The page to read: report.html."""
        return self.path / "report.html"

    def trajectories(self, name: str = "eval_after") -> list[dict[str, Any]]:
        """The rollouts of a step (``step_000012``) or an evaluation (``eval_before``, ``eval_after``) with messages,
        tokens and reward parts. Raises ValueError: there are none of that name."""
        from rl.tracking.rundir import RunDir

        folder = RunDir(self.path, make=False)
        if name not in (names := folder.trajectory_names()):
            raise ValueError(f"no trajectories {name!r} in {self.path}: there are {', '.join(names) or 'none'}")
        return folder.read_trajectories(name)


def train(
    model: str | os.PathLike[str] | None = None,
    data: Data | None = None,
    reward: Reward | None = None,
    agent: Reward | None = None,
    **settings: Any,
) -> Run:
    """One run of `rl-train`, from the cold start to the report.

    Args:
        model: a policy directory, a hub id (owner/name); None: the shipped base policy.
        data: a file or folder of rows, rows as dicts, the name of a family (``search``), a Taskset class or its import
            path; None: the four families.
        reward: for rows: a function ``(answer, row) -> float``, its import path, or exact | numeric | math |
            unit_tests; for any data the name of a file in configs/reward. None: as configured.
        agent: for rows: your own agent, a function ``(base_url, api_key, row)``, its import path, or the command that
            starts it, ``"python agent.py"`` (envs.own_agent).
        settings: overrides by name, groups as dicts: ``steps=40, learner={"lr": 2e-5}, experiment="my_model"``.
    Raises:
        ConfigurationError: a setting is wrong; one line, and no run is left behind.
    """
    from rl.commands import train as command
    from rl.run.preflight import configuration

    inputs = Inputs()
    with configuration():
        overrides = [*model_overrides(model), *inputs.overrides(data, reward, agent), *written(settings)]
    cfg = composed("train", overrides)
    with configuration():
        if cfg.plan:
            raise ValueError("plan=true: a plan is printed by rl-train; from Python call rl.run.run_plan.plan_of")
        _check_ray()
    with giving(overrides):
        if cfg.resume is not None or not inputs.files:
            command.run(cfg)
            return _run(Path(cfg.runs_dir) / str(cfg.resume or cfg.name))
        with configuration():
            folder = command.new_folder(cfg)
        with inputs.inside(folder.path, cfg.env):
            command.run(cfg, folder)
    return _run(folder.path)


def evaluate(
    model: str | os.PathLike[str] | None = None,
    data: Data | None = None,
    reward: Reward | None = None,
    run: Run | str | None = None,
    agent: Reward | None = None,
    **settings: Any,
) -> Run:
    """One `rl-eval`: of a policy directory ``model``, or of the last policy of ``run`` with that run's settings.

    ``data``, ``reward``, ``agent`` and ``settings`` as for ``train``; with ``run`` they replace its own. ``path`` is
    where the evaluation lies (``out=``). Raises ConfigurationError.
    """
    from rl.commands import evaluate as command
    from rl.commands.evaluate_settings import policies_of, results_of
    from rl.run.preflight import configuration

    inputs = Inputs()
    with configuration():
        _check_ray()
        overrides = [*inputs.overrides(data, reward, agent), *written(settings)]
        if isinstance(run, Run):
            overrides += written({"run": run.name, "runs_dir": str(run.path.parent)})
        elif run is not None:
            overrides += written({"run": run})
        if model is not None:
            overrides = [*(o for o in model_overrides(model) if not o.startswith("policy.path=")),
                         *written({"path": os.fspath(model)}), *overrides]  # fmt: skip
    cfg = composed("evaluate", overrides)
    with giving(overrides):
        with configuration():
            policies = policies_of(cfg)
            out = results_of(cfg, policies)
        with inputs.inside(out, cfg.env):
            command.run(cfg)
    return Run(out, policies[0][1])


@dataclass
class Inputs:
    """What a call brings that has no place in a configuration: files for the folder ``inputs/`` of the run."""

    files: dict[str, str] = field(default_factory=dict)

    def overrides(self, data: Data | None, reward: Reward | None, agent: Reward | None = None) -> list[str]:
        """The overrides that ``data``, ``reward`` and ``agent`` stand for. Raises ValueError."""
        chosen = [] if data is None else self._data(data)
        if agent is not None:
            name = agent if isinstance(agent, str) else self._named(agent)
            if ROWS_GROUP not in chosen:
                shown = agent if isinstance(agent, str) else getattr(agent, "__name__", agent)
                raise ValueError(f"agent={shown}: it plays the rows of a data set; give data=<rows, or a file of rows>")
            by = "env.command" if isinstance(agent, str) and not IMPORT_PATH.fullmatch(agent) else "env.agent"
            chosen = [OWN_AGENT if word == ROWS_GROUP else word for word in chosen] + written({by: name})
        if reward is None:
            return chosen
        from envs.answer_checks import VERIFIERS

        if isinstance(reward, str) and reward not in VERIFIERS and "." not in reward and ":" not in reward:
            groups = _choices("reward")
            if reward not in groups:
                raise ValueError(
                    f"reward={reward}: no such reward; for rows one of {', '.join(VERIFIERS)}, a function or its "
                    f"import path; for any data one of {', '.join(groups)}"
                )
            return [*chosen, f"reward={reward}"]
        if not {ROWS_GROUP, OWN_AGENT} & set(chosen):
            raise ValueError(
                f"reward={reward if isinstance(reward, str) else getattr(reward, '__name__', reward)}: it scores the "
                "rows of a data set; give data=<rows, or a file of rows>. Other data have scores of their own"
            )
        return [*chosen, *written({"env.reward": reward if isinstance(reward, str) else self._named(reward)})]

    def _data(self, data: Data) -> list[str]:
        if isinstance(data, type):
            return written({"env._target_": self._named(data)})
        if isinstance(data, str | os.PathLike):
            text = os.fspath(data)
            if isinstance(data, str) and text in _choices("env"):
                return [f"env={text}"]
            if isinstance(data, str) and IMPORT_PATH.fullmatch(text) and not Path(text).exists():
                from envs.row_source import SUFFIXES

                if Path(text).suffix not in SUFFIXES:
                    return written({"env._target_": text.replace(":", ".")})
            return [ROWS_GROUP, *written({"env.path": text})]
        rows = data.to_list() if hasattr(data, "to_list") else data
        if not isinstance(rows, Sequence) or not rows or not all(isinstance(row, Mapping) for row in rows):
            raise ValueError(
                f"data is a {type(data).__name__}: give a file, a list of dicts, a family's name or a Taskset class"
            )
        try:
            lines = [json.dumps(dict(row), ensure_ascii=False) for row in rows]
        except TypeError as error:
            raise ValueError(f"data: {error}; rows hold JSON values: text, numbers, lists, dicts") from error
        self.files[ROWS] = "".join(line + "\n" for line in lines)
        return [ROWS_GROUP, *written({"env.path": ROWS})]

    def _named(self, thing: Callable[..., Any]) -> str:
        """The import path of a function or class, in a module made for it where it has none."""
        from rl.run.function_source import import_path, module_source

        if (path := import_path(thing)) is not None:
            return path
        name, text = module_source(thing)
        # Named by its content: no module that this process has loaded can be meant.
        module = f"inputs_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self.files[f"{module}.py"] = text
        return f"{module}.{name}"

    @contextmanager
    def inside(self, folder: Path, env: dict[str, Any]) -> Iterator[None]:
        """The files in ``folder/inputs``, where ``env`` and imports find them; gone with the folder if the settings are
        refused in the block."""
        from rl.run.inputs import INPUTS, find_inputs
        from rl.run.preflight import ConfigurationError

        if not self.files:
            yield
            return
        there, made = folder.exists(), folder / INPUTS
        made.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (made / name).write_text(text, encoding="utf-8")
        find_inputs(folder)
        if ROWS in self.files:
            env["path"] = str(made / ROWS)
        try:
            yield
        except ConfigurationError:
            if not there or not any(folder.glob("config.yaml")):
                shutil.rmtree(folder)
            raise


def model_overrides(model: str | os.PathLike[str] | None) -> list[str]:
    """The overrides for ``model``: its path, and the preset that its config.json asks for. Raises ValueError."""
    from rl.run.paths import policy_directory

    if model is None:
        return []
    directory = policy_directory("model", os.fspath(model))
    try:
        kind = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"model={model}: its config.json is no JSON object ({error})") from error
    return [f"policy={'deepseek_v32' if kind == 'deepseek_v32' else 'hf'}",
            *written({"policy.path": os.fspath(model)})]  # fmt: skip


def written(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``{"steps": 4, "learner": {"lr": 1e-4}}`` as overrides: ``steps=4``, ``learner.lr=0.0001``. Raises ValueError for
    a value that a configuration cannot hold."""
    found = []
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            found += written(value, f"{key}.")
        else:
            found.append(f"{key}={_text(key, value)}")
    return found


def _text(key: str, value: Any) -> str:
    """``value`` in Hydra's grammar."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.A) and value.lower() not in NOT_TEXT
        return value if plain else QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(key, item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(key, k)}:{_text(key, v)}" for k, v in value.items()) + "}"
    raise ValueError(f"{key}: a {type(value).__name__} is no value of a setting; give text, numbers, lists or dicts")


def _choices(group: str) -> list[str]:
    from importlib.resources import files

    found = files("configs").joinpath(group).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in found if file.name.endswith(".yaml"))


def _check_ray() -> None:
    """Raise ValueError when this process holds a Ray already: a run starts one of its own and stops it."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise ValueError("Ray runs in this process already; call ray.shutdown() first")


def _run(folder: Path) -> Run:
    return Run(folder, folder / "policy")
