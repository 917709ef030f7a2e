"""What every console entry point shares: Hydra start-up, typed configuration, plain progress lines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig


def hydra_main(config_name: str, run: Callable[[Any], object]) -> None:
    """Compose ``configs/<config_name>.yaml`` with the command line, check it against its schema, call ``run``.

    ``run`` receives the typed dataclass. The working directory is put on the module path, so that
    ``env._target_=my_module.MyTaskset`` finds a file beside you.
    """
    import hydra

    from configs.schema import register
    from rl.run.preflight import configuration, typed

    register()
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())

    @hydra.main(version_base="1.3", config_path="pkg://configs", config_name=config_name)
    def entry(cfg: DictConfig) -> None:
        try:
            with configuration():
                settings = typed(cfg)
            run(settings)
        except Exception as error:
            if os.environ.get("HYDRA_FULL_ERROR", "0") == "1":
                raise
            sys.exit(_said(error))

    entry()


def _said(error: Exception) -> str:
    """What the user reads of an error that ended the command; ``HYDRA_FULL_ERROR=1`` shows all of it instead."""
    import traceback

    from rl.run.errors import RunStopped, explain, traceback_file
    from rl.run.preflight import ConfigurationError

    if isinstance(error, ConfigurationError):
        return f"configuration error: {error}"
    if isinstance(error, RunStopped):
        return f"stopped: {error}"
    text = "".join(traceback.format_exception(error))
    return f"stopped: {explain(error)}; traceback: {traceback_file(text)}"


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
