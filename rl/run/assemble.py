"""Building the parts of a run from its configuration: Ray, tasksets, rewards, renderer, judge, rollout pool."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from rl.run.ending import is_orderly, take_back
from rl.run.local_ray import start_local, vital_processes
from rl.run.paths import policy_directory
from rl.run.places import find_places, session
from rl.run.ray_watch import watching

if TYPE_CHECKING:
    from configs.schema import EvalConfig, RayConfig
    from envs.taskset import Taskset
    from rewards.compose import RewardComposer
    from rl.chat.hf_template import HFTemplateRenderer
    from rl.chat.v32 import V32Renderer
    from rl.rollout.judge_actor import WorkerJudge
    from rl.rollout.placing import Placing
    from rl.rollout.pool import RolloutPool

TRAIN, HELDOUT = "train", "heldout"


@contextmanager
def cluster(config: RayConfig, cpus: int, deterministic: bool = False) -> Iterator[None]:
    """A Ray instance for the length of the block: a local one of our own, or a running cluster.

    A local one listens on this machine's loopback alone, and leaves no folder behind; a command ends with its raylet
    or its GCS. ``cpus``: those of actors that have to have room; 0: no Ray is needed, and none started.
    ``deterministic``: sets of strings have one order in all its processes, and in those that they start.
    """
    if not cpus:
        yield
        return
    if deterministic:
        os.environ["PYTHONHASHSEED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.address is None:
        for sentence in find_places(config.object_store_mb):
            print(sentence)
    import ray

    with ExitStack() as ends:
        if config.address is not None:
            ray.init(address=config.address, logging_level=logging.ERROR, log_to_driver=False)
            ends.callback(ray.shutdown)
        else:
            folder = start_local(config, cpus)
            ends.enter_context(session(folder))
            ends.callback(ray.shutdown)
            if is_orderly():
                ends.enter_context(watching(vital_processes(), folder / "logs"))
        take_back()
        yield


def open_tasksets(env: Mapping[str, Any], seed: int, evaluation: EvalConfig) -> dict[str, Taskset]:
    """The training taskset, and the held-out one large enough for ``evaluation``."""
    from envs.mixture import families_of

    train = open_taskset(env, "train", seed)
    heldout = open_taskset(env, "heldout", evaluation.seed, size=evaluation.n_tasks * len(families_of(train)))
    return {TRAIN: train, HELDOUT: heldout}


def open_taskset(env: Mapping[str, Any], split: str, seed: int, **kwargs: Any) -> Taskset:
    """Instantiate ``env`` (a ``_target_`` plus arguments) for one split."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from envs.families import FAMILIES
    from envs.taskset import Taskset

    if "_target_" not in env:
        raise ValueError(f"env has no _target_: choose env={'|'.join(FAMILIES)}, or env._target_=module.Class")
    try:
        taskset = instantiate(dict(env), split=split, seed=seed, **kwargs)
    except InstantiationException as error:
        raise ValueError(f"env._target_={env['_target_']}: {_no_class(env) or _cause(error)}") from error
    if not isinstance(taskset, Taskset):
        raise ValueError(f"env._target_={env['_target_']} made a {type(taskset).__name__}; it must be a Taskset")
    return taskset


def open_composer(reward: Mapping[str, Any]) -> RewardComposer:
    """The reward from its configured parts; a part set to null is left out. Raises ValueError that names the part."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import DictConfig, OmegaConf

    from rewards.compose import RewardComposer

    # Plain dicts and lists all through: parts travel to other processes, where OmegaConf need not be. Resolved here:
    # out of its place in the configuration a node like ${judge.client} no longer finds what its own ${...} mean.
    plain: Any = OmegaConf.to_container(reward, resolve=True) if isinstance(reward, DictConfig) else reward
    parts = []
    for name, part in plain.items():
        try:
            parts += [] if part is None else [instantiate(part, _convert_="all")]
        except InstantiationException as error:
            raise ValueError(f"reward.{name}: {_cause(error)}") from error
    return RewardComposer(parts)


def _no_class(env: Mapping[str, Any]) -> str:
    """What is wrong with ``env._target_``, in the words of envs-check; "" when it names something."""
    from hydra.utils import get_object

    from envs.families import taskset_class

    target = str(env["_target_"])
    try:
        get_object(target)
    except Exception:
        try:
            taskset_class(target)
        except ValueError as error:
            return str(error)
        except Exception:  # the module raised: Hydra's account says so
            return ""
    return ""  # a class, or a function that makes one (env=plugin): what went wrong lies in it


def _cause(error: Exception) -> str:
    """What Hydra could not make an object for, in one line."""
    return " ".join(str(error.__cause__ or error).split())


def renderer_class(kind: str) -> type[V32Renderer] | type[HFTemplateRenderer]:
    """The class of the chat renderer ``kind``. Raises ValueError: there is none of that name."""
    if kind == "v32":
        from rl.chat.v32 import V32Renderer

        return V32Renderer
    if kind == "hf":
        from rl.chat.hf_template import HFTemplateRenderer

        return HFTemplateRenderer
    raise ValueError(f"policy.renderer={kind!r}: use v32 or hf")


def open_renderer(kind: str, directory: str, retention: str = "cycle") -> V32Renderer | HFTemplateRenderer:
    """The chat renderer ``kind`` (v32 | hf) with the tokenizer of a policy directory; ``rollout.retention``."""
    from rl.chat.renderer import check_retention

    return renderer_class(kind).load(directory, check_retention(retention))


def places_of(cfg: Any) -> Placing:
    """Places for the workers of ``cfg``, which has rollout and ray. Ray must be initialised."""
    from rl.rollout.placing import Placing, Reserved

    gpus, ray = cfg.ray.worker_gpus * cfg.rollout.tensor_parallel, cfg.ray
    engine = Reserved(gpus=gpus, resources=ray.worker_resources)
    player = Reserved(cpus=ray.env_cpus, resources=ray.env_resources)
    return Placing(cfg.rollout.workers, engine, cfg.rollout.env_workers, player)


def open_pool(
    cfg: Any,
    model_dir: Path,
    tasksets: Mapping[str, Taskset],
    *,
    record_indexer: bool = False,
    given_up: Event | None = None,
    placing: Placing | None = None,
) -> RolloutPool:
    """Rollout workers whose engines hold the policy of ``model_dir``. ``cfg`` has policy, rollout, reward and ray.
    ``placing``: their places (``places_of``), where there are some already."""
    from rl.rollout.pool import RolloutPool

    model_dir = model_dir.absolute()  # workers have another working directory: that of `ray start`
    return RolloutPool(
        cfg.rollout,
        model_dir,
        partial(open_renderer, cfg.policy.renderer, str(model_dir), cfg.rollout.retention),
        tasksets,
        open_composer(cfg.reward),
        record_indexer=record_indexer,
        placing=places_of(cfg) if placing is None else placing,
        given_up=given_up,
    )


@contextmanager
def open_judge(cfg: Any, model_dir: Path | None = None) -> Iterator[WorkerJudge | None]:
    """The run's own judge for the length of the block (judge=worker), else nothing. ``cfg`` has judge and policy.

    ``model_dir``: its model where ``judge.path`` names none.
    """
    from rl.rollout.judge_actor import running_judge

    if not cfg.judge.is_worker:
        yield None
        return
    directory = model_dir if cfg.judge.path is None else policy_directory("judge.path", cfg.judge.path)
    assert directory is not None
    kind = cfg.judge.renderer or cfg.policy.renderer
    with running_judge(cfg.judge, directory, partial(open_renderer, kind, str(directory))) as judge:
        yield judge


def members_of(taskset: Taskset) -> dict[str, Taskset]:
    """The single-family tasksets of a mixture by family; a taskset that is no mixture is its only member."""
    members = getattr(taskset, "members", None)
    return {m.family: m for m in members.values()} if members else {taskset.family: taskset}
