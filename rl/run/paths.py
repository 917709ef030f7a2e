"""Where a setting that names a file or a directory points.

    models/mine  ·  /data/mine       a path of the user: relative to the working directory, or absolute
    pkg://rl.bases/tiny_dsa_base     what an installed package brings: the package, then the place inside it
    owner/name                       of a policy, where no such directory is: the model of that name on the hub

The second is Hydra's own scheme, found through ``importlib.resources``: it means the same in a clone and in an
installed wheel, whatever the working directory.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from rl.run.hub import from_hub, is_hub_id

PACKAGE = "pkg://"


def resolve(setting: str | Path) -> Path:
    """The path that ``setting`` means; nothing need be there. Raises ValueError when it names no installed package."""
    text = str(setting)
    if not text.startswith(PACKAGE):
        return Path(setting)
    package, _, inside = text.removeprefix(PACKAGE).partition("/")
    try:
        root = files(package)
    except (ModuleNotFoundError, ValueError, TypeError) as error:  # not installed, "", a module that is no package
        raise ValueError(f"{text}: there is no package {package!r}; write {PACKAGE}<package>/<place in it>") from error
    return Path(str(root / inside))


def existing_file(field: str, setting: str | Path) -> Path:
    """The file that ``field`` is set to. Raises ValueError when there is none."""
    path = _resolved(field, setting)
    if not path.is_file():
        raise ValueError(f"{field}={setting}: no such file; a relative path begins at the working directory")
    return path


def on_the_hub(setting: str | Path) -> bool:
    """Whether ``setting`` names a model of the hub: owner/name, and no such path is here."""
    return is_hub_id(str(setting)) and not Path(setting).exists()


def policy_directory(field: str, setting: str | Path, *, config_only: bool = False) -> Path:
    """The directory of a policy in Hugging Face format that ``field`` is set to, or of the hub's model of that name.
    ``config_only``: who asks reads nothing but config.json, so no more is fetched.

    Raises ValueError when there is none.
    """
    if on_the_hub(setting):
        directory = from_hub(field, str(setting), config_only=config_only)
    else:
        directory = _resolved(field, setting)
    if not (directory / "config.json").is_file():
        found = "no config.json there" if directory.is_dir() else "no such directory"
        if (directory / "adapter_config.json").is_file():
            found = "a LoRA adapter alone; the policy that its run leaves at the end has it merged (runs/<name>/policy)"
        fix = ", or base=scratch" if field == "base.source" else ""
        raise ValueError(f"{field}={setting}: {found}; give a directory with a policy in Hugging Face format{fix}")
    return directory


def output_directory(field: str, setting: str | Path) -> Path:
    """The directory that ``field`` is set to: there, or it can be made. Nothing is made yet.

    Raises ValueError when it cannot be written to.
    """
    path = Path(setting)
    try:
        there = next(place for place in (path, *path.parents) if place.exists())
        if not there.is_dir():
            raise ValueError(f"{field}={setting}: '{there}' is a file; give a directory")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"{field}={setting}: no permission to write in '{there}'; give another directory")
    except OSError as error:  # a name that is too long, a directory that may not be looked into
        raise ValueError(f"{field}={setting}: {error.strerror}; give another directory") from error
    return path


def output_file(field: str, setting: str | Path) -> Path:
    """The file that ``field`` is set to, which can be written. Raises ValueError when it cannot."""
    path = Path(setting)
    output_directory(field, path.parent)
    if path.is_dir():
        raise ValueError(f"{field}={setting}: is a directory; give a file")
    return path


def _resolved(field: str, setting: str | Path) -> Path:
    try:
        return resolve(setting)
    except ValueError as error:
        raise ValueError(f"{field}={error}") from error
