"""`--help` of a command: its choices, and a line for every setting, from the comments next to the fields."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib.resources import files
from typing import Any

from configs.fields import COMMANDS, OVERLAY, default, meaning, members, overlay, shown
from configs.schema import SCHEMAS

WIDTH = 120


def help_text(config_name: str) -> str:
    """The page of the command that ``configs/<config_name>.yaml`` configures."""
    schema = SCHEMAS[config_name]
    command = next(title.strip("`") for title, cls in COMMANDS if cls is schema)
    overlaid = overlay() if config_name == "train" else {}
    what = (schema.__doc__ or "").split("\n\n")[0].replace("``", "").replace("`", "")
    lines = [*textwrap.wrap(" ".join(what.split()), WIDTH), "", f"usage: {command} [group=choice …] [key=value …]",
             "       a list is [1,2], a mapping {a: 1}, nothing is null; --hydra-help has Hydra's own options",
             "", "choices", *choices(config_name), ""]  # fmt: skip
    lines.append("settings" + (f" (values are those of experiment={OVERLAY})" if overlaid else ""))
    for prefix, member in (("", None), *members(schema)):
        if member is not None:
            lines += ["", prefix]
        lines += settings(schema if member is None else type(member), prefix and f"{prefix}.", member, overlaid)
    return "\n".join([*lines, "", "Every field at length, with its bounds: docs/configuration.md"])


def choices(config_name: str) -> Iterator[str]:
    """A line for every group that the command takes: its files in configs/."""
    text = files("configs").joinpath(f"{config_name}.yaml").read_text(encoding="utf-8")
    for group in sorted(re.findall(r"^  - (\w+): ", text, re.M)):
        names = sorted(f.name.removesuffix(".yaml") for f in files("configs").joinpath(group).iterdir())
        yield from textwrap.wrap(f"  {group}: {', '.join(names)}", WIDTH, subsequent_indent="      ")


def settings(cls: type, prefix: str, member: Any, overlaid: dict[str, Any]) -> Iterator[str]:
    """A line for every field of ``cls``: name, value, the beginning of its meaning."""
    for item in fields(cls):
        value = default(item) if member is None else getattr(member, item.name)
        if is_dataclass(value):
            continue
        name = f"{prefix}{item.name}"
        head = f"  {name}={shown(overlaid.get(name, value)).strip('`')}"
        about = re.sub(r"\s+", " ", meaning(cls, item.name).replace("`", ""))
        if len(head) > WIDTH // 2:
            head = f"  {name}=…"
        room = WIDTH - max(len(head), 40) - 2
        yield f"{head:<40}  {textwrap.shorten(about, room, placeholder=' …')}".rstrip()
