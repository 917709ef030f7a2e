"""``envs-init``: writes a new environment into the current folder: a module and its test, complete and small.

    envs-init my_store                  a class with a tool
    envs-init my_questions --dataset    a data set and a reward function
    envs-init my_game --game            a class with its own step

What it writes passes ``envs-check`` and trains as it stands; then change it, one method at a time. Nothing is
registered: the import path is its name in every command, ``rl-train env._target_=my_store.MyStoreTaskset``.

The templates are the files of ``envs/templates/<kind>``: ``NAME`` in their names, ``${name}`` and ``${Name}`` in their
text are replaced.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from envs.families import known

KINDS: dict[str, str] = {
    "tools": "a class with a tool that the policy calls (the default)",
    "dataset": "a data set and a reward function, no class",
    "game": "a class with its own step: a game, a simulator, somebody who answers back",
}
_CLASS = ("${name}.${Name}Taskset", "env._target_=${name}.${Name}Taskset")
# kind: how envs-check and envs-play name the result, and how rl-train does
_CALLED: dict[str, tuple[str, str]] = {
    "tools": _CLASS,
    "game": _CLASS,
    "dataset": (
        "dataset path=${name}.jsonl prompt_column=question split_column=split reward=${name}.score",
        "env=dataset env.path=${name}.jsonl env.prompt_column=question env.split_column=split env.reward=${name}.score",
    ),
}
LONGEST = 40  # letters of a name: the lines it stands in keep their width


def check_name(name: str, folder: Path) -> None:
    """Raise ValueError when ``name`` cannot be the name of a new module in ``folder``."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or len(name) > LONGEST:
        why = "a word of Python" if keyword.iskeyword(name) else "cannot be a module's name here"
        raise ValueError(
            f"NAME={name!r}: {why}; use at most {LONGEST} lower-case letters, digits and _, a letter first, "
            "for example my_store"
        )
    if name in known():
        raise ValueError(f"NAME={name!r}: a taskset of that name is there already; choose another name")
    here = [path for path in (folder / name, folder / f"{name}.py") if path.exists()]
    if not here and (found := importlib.util.find_spec(name)) is not None:
        where = f" ({found.origin})" if found.origin else ""
        raise ValueError(f"NAME={name!r}: the new module would hide the module {name!r}{where}; choose another name")
    if here:
        raise ValueError(f"NAME={name!r}: '{here[0].name}' is here already; choose another name or folder")


def _words(name: str) -> dict[str, str]:
    return {"name": name, "Name": "".join(part.capitalize() for part in name.split("_"))}


def filled(kind: str, name: str) -> dict[str, str]:
    """The text of every file of ``kind``, by the file's name."""
    texts = {}
    for template in sorted((files("envs") / "templates" / kind).iterdir(), key=lambda file: file.name):
        file = template.name.replace("NAME", name).removesuffix(".txt")
        texts[file] = Template(template.read_text(encoding="utf-8")).substitute(_words(name))
    return texts


def commands(kind: str, name: str) -> list[str]:
    """What to do with the new environment, one command line each."""
    here, trained = (Template(text).substitute(_words(name)) for text in _CALLED[kind])
    return [f"envs-check {here}", f"envs-play {here}", f"pytest test_{name}.py", f"rl-train {trained}"]


def write(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the files of a new environment into ``folder``; their paths. Raises ValueError, and nothing is written:
    the name does not do, or a file is there already."""
    check_name(name, folder)
    texts = filled(kind, name)
    if there := [file for file in texts if (folder / file).exists()]:
        raise ValueError(f"NAME={name!r}: '{there[0]}' is here already; choose another name or folder")
    for file, text in texts.items():
        with (folder / file).open("x", encoding="utf-8") as out:  # x: never over a file of somebody else
            out.write(text)
    return [folder / file for file in texts]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="envs-init", description="Write a new environment into the current folder: module and test."
    )
    parser.add_argument("name", metavar="NAME", help="name of the new module, for example my_store")
    group = parser.add_mutually_exclusive_group()
    for kind, what in KINDS.items():
        group.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=what)
    parser.set_defaults(kind="tools")
    arguments = parser.parse_args(argv)
    try:
        written = write(arguments.kind, arguments.name, Path.cwd())
    except (ValueError, OSError) as error:
        print(f"envs-init: {error}", file=sys.stderr)
        return 2
    print("wrote " + ", ".join(path.name for path in written) + "\n")
    print("\n".join(f"  {line}" for line in commands(arguments.kind, arguments.name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
