"""Building the parts of a run from its configuration: Ray, tasksets, rewards, renderer, judge, rollout pool."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.run.paths import policy_directory

if TYPE_CHECKING:
    from configs.schema import EvalConfig, RayConfig
    from envs.taskset import Taskset
    from rewards.compose import RewardComposer
    from rl.chat.hf_template import HFTemplateRenderer
    from rl.chat.v32 import V32Renderer
    from rl.rollout.judge_actor import WorkerJudge
    from rl.rollout.pool import RolloutPool

TRAIN, HELDOUT = "train", "heldout"
_RAY_STARTS = 4
_LONGEST_TMPDIR = 39


@contextmanager
def cluster(config: RayConfig, workers: int, deterministic: bool = False) -> Iterator[None]:
    """A Ray instance for the length of the block: a local one of our own, or a running cluster.

    ``deterministic``: sets of strings have one order in all its processes, and in those that they start.
    """
    if deterministic:
        os.environ["PYTHONHASHSEED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if config.address is not None:
        ray.init(address=config.address, logging_level=logging.ERROR, log_to_driver=False)
    else:
        _find_places()
        cpus = config.num_cpus or max(os.cpu_count() or 1, workers + 1)
        _start_ray(
            address="local",  # never a cluster that RAY_ADDRESS or an earlier `ray start` names
            num_cpus=cpus,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",  # nothing of a local run listens beyond this machine
            object_store_memory=config.object_store_mb * 2**20,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _find_places() -> None:
    """Give a local Ray places that work where the machine's own do not, as in batch jobs and containers.

    A path of a Unix socket has 107 bytes at most, of which Ray's folders below ``TMPDIR`` take up to 68; and its token
    is a file in the home folder, which may not be writable. Raises OSError when there is no short temporary folder.
    """
    temporary = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
    if len(os.fsencode(temporary)) > _LONGEST_TMPDIR:
        if not os.access("/tmp", os.W_OK | os.X_OK):
            raise OSError(
                f"TMPDIR={temporary}: too long for the sockets of Ray, which allow {_LONGEST_TMPDIR} bytes; set "
                "RAY_TMPDIR to a folder with a short name"
            )
        os.environ["RAY_TMPDIR"] = "/tmp"
    home = Path(os.path.expanduser("~"))
    there = next((place for place in (home / ".ray", home) if place.is_dir()), None)
    if there is None or not os.access(there, os.W_OK | os.X_OK):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _start_ray(**settings: Any) -> None:
    """``ray.init``, tried again when its node was not up in time: Ray waits 30 s and has no setting for it, which is
    short on a machine with other work. Raises what Ray raised the last time."""
    import ray

    for left in reversed(range(_RAY_STARTS)):
        try:
            ray.init(**settings)
            return
        except Exception as error:  # Ray has no type of its own for it
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
    cfg: Any, model_dir: Path, tasksets: Mapping[str, Taskset], *, record_indexer: bool = False
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
