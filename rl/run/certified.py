"""Whether the task sets of a run have certificates (``envs.certificate``): looked at before a run has a folder.

certificate=warn       one line for each task set of yours without a valid one, with the command that makes it
certificate=demand     the run (or the evaluation) does not start
certificate=off        nothing is looked for
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.certificate.identity import command_of, is_ours, parts_of
from envs.certificate.shelf import FOLDER, Found, find
from envs.certificate.verdicts import in_words
from envs.closure import closure
from envs.mixture import families_of
from rl.run.inputs import INPUTS

if TYPE_CHECKING:
    from envs.taskset import Taskset

OURS = "ours"  # without a certificate, and it needs none: it comes with this package, and so do the tests of it
_WRONG = {
    "none": "has no certificate",
    "damaged": "has a damaged certificate",
    "failed": "has a certificate of what did not hold",
    "stale": "has changed",
}


def standings(taskset: Taskset, mode: str, folder: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """How each family of ``taskset`` stands, as it is shown in the report, and what there is to say.

    ``folder``: where certificates are looked for, besides the folder of the data. Raises ValueError under
    ``mode=demand`` when a task set that is not ours has no valid certificate.
    """
    shown: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    for part in parts_of(taskset) if mode != "off" else ():
        found = find(part, Path(folder))
        ours = found.state != "valid" and is_ours(part)
        about = {"state": OURS, "said": ""} if ours else dict(_shown(found))
        shown |= {family: about for family in families_of(part)}
        if found.state != "valid" and not ours:
            wrong.append(_sentence(part, found, folder))
    if wrong and mode == "demand":
        raise ValueError(f"certificate=demand: {'; '.join(wrong)}")
    return shown, [f"warning: {sentence}" for sentence in wrong]


def _sentence(taskset: Taskset, found: Found, folder: str) -> str:
    name = f"{', '.join(families_of(taskset))} ({type(taskset).__module__}.{type(taskset).__qualname__})"
    about = f" ({found.said}; {found.path})" if found.said else ""
    run = f"run {_with_inputs(taskset)}{command_of(taskset)}"
    if folder != FOLDER:
        run += f" certificates={shlex.quote(folder)}"
    if found.state == "failed":
        run = f"mend it, or say why it does not matter (waive={{ROW: why}}), and {run}"
    return f"the task set {name} {_WRONG[found.state]}{about}: {run}"


def _with_inputs(taskset: Taskset) -> str:
    """Where the modules lie that a call of `rl.train` brought along: no other process finds them by itself."""
    folders = {file.parent for file in closure((taskset,)).values() if file.parent.name == INPUTS}
    return "".join(f"PYTHONPATH={shlex.quote(str(folder))} " for folder in sorted(folders))


def _shown(found: Found) -> Iterator[tuple[str, Any]]:
    yield from (("state", found.state), ("said", found.said))
    if found.certificate is not None:
        yield "path", str(found.path)
        yield "date", found.certificate["date"]
        yield "tasks", found.certificate["tasks"]
        yield "results", {row: in_words(row, result) for row, result in found.certificate["results"].items()}
