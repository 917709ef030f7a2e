"""What config.yaml does not hold: user names, passwords and keys in URLs, which stand there as ``***``.

A run that resumes needs them again. ``rl-train resume=<run> env.path=https://me:secret@host/rows.jsonl`` gives one: the
only other settings that a resume takes are those that were left out, and they must be the same but for the secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from envs.url_secrets import LEFT_OUT, without_credentials


def left_out(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(field, value) of every setting in ``settings`` (dataclass, mapping, list) that is stored without its secret."""
    if isinstance(settings, str):
        # Only what without_credentials would write again as it stands: a text may hold three stars of its own.
        if LEFT_OUT in settings and without_credentials(settings.replace(LEFT_OUT, "x")) == settings:
            yield prefix, settings
        return
    inner: Iterator[tuple[Any, Any]] = iter(())
    if is_dataclass(settings) and not isinstance(settings, type):
        inner = ((field.name, getattr(settings, field.name)) for field in fields(settings))
    elif isinstance(settings, Mapping):
        inner = iter(settings.items())
    elif isinstance(settings, list):
        inner = enumerate(settings)
    for name, value in inner:
        yield from left_out(value, f"{prefix}.{name}" if prefix else str(name))


def restore(settings: Any, run: str, overrides: Sequence[str]) -> list[str]:
    """Put the secrets that ``overrides`` give into ``settings``, those of the run ``run``; returns the overrides that
    are no secrets of it. Raises ValueError for one that is missing, or that changes more than the secret."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    missing = dict(left_out(settings))
    others = []
    parser = OverridesParser.create()
    for text in overrides:
        field = text.partition("=")[0].lstrip("+")
        if field not in missing:
            others.append(text)
            continue
        value = str(parser.parse_override(text).value())
        if without_credentials(value) != missing[field]:
            raise ValueError(
                f"resume={run} {field}={without_credentials(value)}: the run has {missing[field]}; only the part that "
                "is *** there may be given"
            )
        _put(settings, field.split("."), value)
        del missing[field]
    if missing:
        again = " ".join(f"'{field}={value}'" for field, value in missing.items())
        raise ValueError(
            f"resume={run}: config.yaml holds no passwords and keys; give again, with them for ***: {again}"
        )
    return others


def _put(settings: Any, path: Sequence[str], value: str) -> None:
    *way, last = path
    for name in way:
        settings = _inner(settings, name)
    if isinstance(settings, list):
        settings[int(last)] = value
    elif isinstance(settings, dict):
        settings[last] = value
    else:
        setattr(settings, last, value)


def _inner(settings: Any, name: str) -> Any:
    if isinstance(settings, list):
        return settings[int(name)]
    return settings[name] if isinstance(settings, dict) else getattr(settings, name)
