"""What every entry point shares: composing the configuration, its errors in one line, plain progress lines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from omegaconf import DictConfig

_given: ContextVar[tuple[str, ...]] = ContextVar("given", default=())
FULL = "HYDRA_FULL_ERROR"
WRONG_CALL = 2  # exit code of a command that was called wrongly, as of argparse; of one that failed it is 1


def given_overrides() -> tuple[str, ...]:
    """The overrides that the command which runs was called with, as Hydra writes them."""
    return _given.get()


def hydra_main(config_name: str, run: Callable[[Any], object]) -> None:
    """Compose ``configs/<config_name>.yaml`` with the command line, check it against its schema, call ``run``.

    ``run`` receives the typed dataclass. What is wrong with a setting ends the command with one line and exit code 2,
    what stops it later with one line and 1; ``HYDRA_FULL_ERROR=1`` shows all of it.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        from rl.commands.help import help_text

        print(help_text(config_name))
        return
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    find_modules_here()
    _register()
    full = os.environ.get(FULL)
    overrides = get_args_parser().parse_known_args()[0].overrides  # without Hydra's own options and their values

    @hydra.main(version_base="1.3", config_path="pkg://configs", config_name=config_name)
    def entry(cfg: DictConfig) -> None:
        _set(full)
        # As they were written: an interpolation in them is not to be resolved here.
        task: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
        try:
            with giving(task):
                run(_typed(cfg, config_name, task))
        except Exception as error:
            if full == "1":
                raise
            _leave(error)

    from rl.run.ending import orderly

    # Hydra prints what it finds wrong over several lines, without saying what to do; with this it raises instead.
    os.environ[FULL] = "1"
    try:
        with orderly():
            entry()
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if full == "1":
            raise
        from rl.commands.override_errors import explained

        _refuse(explained(error, config_name, overrides))
    finally:
        _set(full)


def composed(config_name: str, overrides: Sequence[str]) -> Any:
    """The typed configuration of ``overrides``, as on the command line. Raises ConfigurationError."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from rl.run.preflight import ConfigurationError

    find_modules_here()
    _register()
    try:
        with initialize_config_module("configs", version_base="1.3"):
            cfg = compose(config_name, list(overrides))
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        from rl.commands.override_errors import explained

        raise ConfigurationError(explained(error, config_name, overrides)) from error
    return _typed(cfg, config_name, overrides)


@contextmanager
def giving(overrides: Sequence[str]) -> Iterator[None]:
    """``given_overrides`` for the length of the block."""
    token = _given.set(tuple(overrides))
    try:
        yield
    finally:
        _given.reset(token)


def find_modules_here() -> None:
    """Put the working directory on the module path: ``env._target_=my_module.MyTaskset`` finds a file beside you."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _typed(cfg: DictConfig, config_name: str, overrides: Sequence[str]) -> Any:
    from omegaconf.errors import OmegaConfBaseException

    from configs.schema import SCHEMAS
    from rl.run.preflight import configuration, typed

    with configuration():
        if any(override.startswith(("+", "~")) for override in overrides):
            from rl.commands.override_errors import changed_fields

            changed_fields(cfg, SCHEMAS[config_name], config_name)
        try:
            return typed(cfg)
        except OmegaConfBaseException as error:  # an interpolation that leads nowhere
            from rl.commands.override_errors import explained

            raise ValueError(explained(error, config_name, overrides)) from error


def _register() -> None:
    from configs.schema import register

    register()


def _set(full: str | None) -> None:
    if full is None:
        os.environ.pop(FULL, None)
    else:
        os.environ[FULL] = full


def _refuse(sentence: str) -> NoReturn:
    print(f"configuration error: {sentence}", file=sys.stderr)
    sys.exit(WRONG_CALL)


def _leave(error: Exception) -> NoReturn:
    """End the command by ``error``: the user reads one line of it, with ``HYDRA_FULL_ERROR=1`` all."""
    from rl.run.errors import RunStopped, stopped_without_folder
    from rl.run.preflight import ConfigurationError

    if isinstance(error, ConfigurationError):
        _refuse(str(error))
    sys.exit(f"stopped: {error if isinstance(error, RunStopped) else stopped_without_folder(error)}")


def line_reporter(every_s: float = 5.0) -> Callable[[str, int, int, dict[str, float]], None]:
    """A progress callback that prints a line at most every ``every_s`` seconds, and whenever a part begins or ends."""
    started = time.monotonic()
    last = [-float("inf")]
    part = [""]

    def report(what: str, done: int, total: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        if now - last[0] < every_s and done < total and what == part[0]:
            return
        last[0], part[0] = now, what
        spent = now - started
        left = spent / max(done, 1) * (total - done)
        shown = "  ".join(f"{k.removeprefix('sft/')} {v:.4g}" for k, v in metrics.items())
        print(f"{what} {done}/{total}  {spent:.0f} s, about {left:.0f} s left  {shown}", flush=True)

    return report
