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
from rl.run.paths import policy_directory
from rl.run.places import find_places, session, sweep_sessions
from rl.run.ray_watch import watching

if TYPE_CHECKING:
    from configs.schema import EvalConfig, RayConfig
    from envs.taskset import Taskset
    from rewards.compose import RewardComposer
    from rl.chat.hf_template import HFTemplateRenderer
    from rl.chat.v32 import V32Renderer
    from rl.rollout.judge_actor import WorkerJudge
    from rl.rollout.pool import RolloutPool

TRAIN, HELDOUT = "train", "heldout"
LOOPBACK = "127.0.0.1"
_RAY_STARTS = 4


@contextmanager
def cluster(config: RayConfig, workers: int, deterministic: bool = False) -> Iterator[None]:
    """A Ray instance for the length of the block: a local one of our own, or a running cluster.

    A local one listens on this machine's loopback alone, and leaves no folder behind; a command ends with its raylet
    or its GCS. ``deterministic``: sets of strings have one order in all its processes, and in those that they start.
    """
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
            folder = _start_local(config, workers)
            ends.enter_context(session(folder))
            ends.callback(ray.shutdown)
            if is_orderly():
                ends.enter_context(watching(_vital_processes(), folder / "logs"))
        take_back()
        yield


def _start_local(config: RayConfig, workers: int) -> Path:
    """Start Ray's processes for this one, on the loopback; returns their session folder."""
    import ray
    from ray._private import ray_constants

    # Ray takes 127.0.0.1 for a wish for this machine's outward address, and then listens on all of them. It keeps the
    # loopback only where it knows of no clusters, as on Windows.
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        _start_ray(
            address="local",  # never a cluster that RAY_ADDRESS or an earlier `ray start` names
            num_cpus=config.num_cpus or max(os.cpu_count() or 1, workers + 1),
            include_dashboard=False,
            _node_ip_address=LOOPBACK,
            object_store_memory=config.object_store_mb * 2**20,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    node: Any = ray._private.worker.global_worker.node  # there is no public name for these
    if node.node_ip_address != LOOPBACK:
        ray.shutdown()
        raise RuntimeError(f"a local Ray must listen on {LOOPBACK} alone, and this version took {node.node_ip_address}")
    folder = Path(node.get_session_dir_path())
    sweep_sessions(folder.parent)
    return folder


def _vital_processes() -> dict[str, int]:
    """Ids of the processes that the local Ray cannot do without, by the names of their logs."""
    import ray
    from ray._private import ray_constants

    node: Any = ray._private.worker.global_worker.node
    kinds = (ray_constants.PROCESS_TYPE_RAYLET, ray_constants.PROCESS_TYPE_GCS_SERVER)
    return {kind: found.process.pid for kind in kinds for found in node.all_processes[kind]}


def _start_ray(**settings: Any) -> None:
    """``ray.init``, tried again when its node was not up in time: Ray waits 30 s and has no setting for it, which is
    short on a machine with other work. Raises what Ray raised the last time."""
    import ray

    for left in reversed(range(_RAY_STARTS)):
        try:
            ray.init(**settings)
            return
        except BaseException as error:  # Ray has no type of its own for it
            ray.shutdown()
            if "timed out during startup" not in str(error) or not left:
                raise
            logging.getLogger(__name__).warning("Ray's node was not up within 30 s; %d more tries", left)


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


def open_pool(
    cfg: Any,
    model_dir: Path,
    tasksets: Mapping[str, Taskset],
    *,
    record_indexer: bool = False,
    given_up: Event | None = None,
) -> RolloutPool:
    """Rollout workers whose engines hold the policy of ``model_dir``. ``cfg`` has policy, rollout, reward and ray."""
    from rl.rollout.pool import RolloutPool

    return RolloutPool(
        cfg.rollout,
        model_dir,
        partial(open_renderer, cfg.policy.renderer, str(model_dir), cfg.rollout.retention),
        tasksets,
        open_composer(cfg.reward),
        record_indexer=record_indexer,
        num_gpus=cfg.ray.worker_gpus,
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
