"""A console command of ours without a process of its own: the same ``main`` and the same words, without the start.

`rl-train` starts no Ray ahead of its last checks here: of what is refused, Ray is no part."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

COMMANDS: dict[str, str] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
    "scripts"
]


@dataclass(frozen=True)
class Ended:
    """``returncode`` as the shell would see it; ``output``: what it wrote, both streams."""

    returncode: int
    output: str


def command(name: str, *overrides: str, cwd: Path) -> Ended:
    """``name overrides`` called in ``cwd``; what it changes of this process is put back."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    module, function = COMMANDS[name].split(":")
    main = getattr(importlib.import_module(module), function)
    written, logger = io.StringIO(), logging.getLogger()
    handlers, level, here = logger.handlers[:], logger.level, os.getcwd()
    code: object = 0
    try:
        os.chdir(cwd)
        with (
            mock.patch.object(sys, "argv", [name, *overrides]),
            mock.patch.object(sys, "path", sys.path[:]),
            mock.patch("rl.run.ahead.begun", return_value=contextlib.nullcontext()),
            contextlib.redirect_stdout(written),
            contextlib.redirect_stderr(written),
        ):
            code = main()
    except SystemExit as end:
        code = end.code
    finally:
        os.chdir(here)
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        logger.handlers[:], logger.level = handlers, level
    if isinstance(code, str):  # what the interpreter would write
        written.write(code)
    return Ended(1 if isinstance(code, str) else int(code or 0), written.getvalue())  # type: ignore[call-overload]
