"""What Hydra finds wrong with an override, in one line that says what to do.

rl-train num_generations=4      num_generations: unknown key; did you mean group_size? (TRL's num_generations)
rl-train steps=many             steps=many: must be int, at least 1
rl-train env=serch              env=serch: no such choice; did you mean search? One of agent, built, …
rl-train a=[1                   a=[1: cannot be read; …
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, get_args

from yaml import YAMLError

from configs.schema import SCHEMAS
from configs.vocabulary import Word, lookup
from rl.bounds import field_types

if TYPE_CHECKING:
    from omegaconf import DictConfig

GRAMMAR = "write key=value, a list as key=[1,2], a mapping as key={a: 1}, and a text with , [ ] { } or quotes in quotes"
_UNKNOWN = re.compile(r"Could not override '(.+?)'")
_CHOICE = re.compile(r"Could not (?:find|load) '(.+)/([^/']+)'")
_OPTION = re.compile(r"^\t(\S+)$", re.M)


def explained(error: Exception, config_name: str, overrides: Sequence[str]) -> str:
    """``error``, raised while ``configs/<config_name>.yaml`` and ``overrides`` were put together, in one line."""
    said = str(error)
    if isinstance(error, YAMLError):  # in an overlay of the user's; the text names the file and the line
        return f"no YAML: {' '.join(said.split())}"
    schema = SCHEMAS[config_name]
    if (bad := _unreadable(overrides)) is not None:
        return f"{bad}: give a value, {bad}=<value>" if "=" not in bad else f"{bad}: cannot be read; {GRAMMAR}"
    if found := _UNKNOWN.search(said):
        return unknown_key(found[1], config_name)
    if found := _CHOICE.search(said):
        return _no_choice(found[1], found[2], _OPTION.findall(said.partition("Config search path")[0]))
    if found := re.search(r"Error merging override (.+)", said):
        return _wrong_value(found[1], schema, error)
    if found := re.search(r"Ambiguous value for argument '(.+)'", said):
        key = found[1].partition("=")[0]
        return f"{found[1]}: a comma separates values of a list; write {key}=[a,b], or quote a text that has commas"
    if found := re.search(r"An item is already at '(.+?)'", said):
        return f"+{found[1]}: {found[1]} is there already; leave out the +"
    if found := re.search(r"Multiple values for (\S+?)\.|^(\S+) appears more than once", said):
        group = found[1] or found[2]
        return f"+{group}: {group} is chosen already; leave out the +"
    if found := re.search(r"Could not delete from config\. '(.+?)'", said):
        return f"~{found[1]}: there is no {found[1]} to take out"
    if found := re.search(r"full_key: (\S+)", said):
        return f"{found[1]}: {said.splitlines()[0]}"
    if isinstance(error, ValueError) and (empty := next((o for o in overrides if re.match(r"=|[^=]+=null$", o)), None)):
        return f"{empty}: a choice needs a name; {GRAMMAR}"
    return f"{said.splitlines()[0]}; HYDRA_FULL_ERROR=1 shows the whole error"


def unknown_key(key: str, config_name: str) -> str:
    """That there is no setting ``key``, and which one is meant."""
    known = list(keys(SCHEMAS[config_name]))
    if (found := lookup(key)) is not None:
        return f"{key}: unknown key; {_translated(found[0], found[1], known)}"
    near = nearest(key, known)
    return f"{key}: unknown key; " + (f"did you mean {' or '.join(near)}?" if near else "--help lists all")


def nearest(key: str, known: Sequence[str]) -> list[str]:
    """At most three of ``known`` that look like ``key``: of the same last name first."""
    last = key.rpartition(".")[2]
    by_last: dict[str, list[str]] = {}
    for name in known:
        by_last.setdefault(name.rpartition(".")[2], []).append(name)
    near = difflib.get_close_matches(key, known, 3, 0.8)
    if not near or last in by_last:
        alike = [last] if last in by_last else difflib.get_close_matches(last, by_last, 3, 0.7)
        near = [name for word in alike for name in difflib.get_close_matches(key, by_last[word], 3, 0.0)] + near
    return list(dict.fromkeys([*near, *difflib.get_close_matches(key, known, 1, 0.6)]))[:3]


def keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of ``schema``, of groups too."""
    for name, hint in field_types(schema).items():
        yield f"{prefix}{name}"
        if is_dataclass(hint) and isinstance(hint, type):
            yield from keys(hint, f"{prefix}{name}.")


def _translated(toolkit: str, word: Word, known: Sequence[str]) -> str:
    whose = f"({toolkit}'s {word.theirs}" + ("" if word.same and word.ours else f"; {word.remark}") + ")"
    if word.ours is None:
        return f"there is no such setting {whose}"
    if word.ours in known or word.ours.partition(".")[0] in {k for k in ("env", "reward") if k in known}:
        return f"did you mean {word.ours}? {whose}"
    return f"rl-train calls it {word.ours} {whose}"


def _unreadable(overrides: Sequence[str]) -> str | None:
    """The first override that is against Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException:
            return override
    return None


def _no_choice(group: str, name: str, options: Sequence[str]) -> str:
    from envs.families import REFUSED

    if group == "env" and name in REFUSED:
        return f"{group}={name}: cannot be loaded: {REFUSED[name]}"
    folder = files("configs").joinpath(group)
    if not options and folder.is_dir():  # Hydra names none for one of a list
        options = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))
    near = difflib.get_close_matches(name, options, 1, 0.6)
    guess = f"did you mean {near[0]}? One" if near else "one"
    return f"{group}={name}: no such choice; {guess} of {', '.join(options)}"


def changed_fields(cfg: DictConfig, schema: type, config_name: str, prefix: str = "") -> None:
    """Raise ValueError when ``+key`` or ``~key`` gave ``cfg`` other fields than ``schema`` has."""
    hints = field_types(schema)
    for name in [str(key) for key in cfg if key not in hints]:
        raise ValueError(unknown_key(f"{prefix}{name}", config_name))
    for name, hint in hints.items():
        if name not in cfg:
            raise ValueError(f"~{prefix}{name}: a setting cannot be taken out; give it another value")
        if is_dataclass(hint) and isinstance(hint, type):
            changed_fields(cfg[name], hint, config_name, f"{prefix}{name}.")


def _wrong_value(override: str, schema: type, error: Exception) -> str:
    from configs.fields import kind

    hint: Any = schema
    path = override.partition("=")[0].lstrip("+~")
    for name in path.split("."):
        members = field_types(hint) if isinstance(hint, type) and is_dataclass(hint) else {}
        if name not in members:
            hint = None
            break
        hint = members[name]
    if hint is None:
        return f"{override}: {str(error.__cause__ or error).splitlines()[0]}"
    inner = next((h for h in (hint, *get_args(hint)) if isinstance(h, type) and is_dataclass(h)), None)
    if inner is not None:
        field = next(iter(field_types(inner)))
        return f"{override}: {path} is a group; set its fields, such as {path}.{field}=<value>"
    return f"{override}: must be {kind(hint)}"
