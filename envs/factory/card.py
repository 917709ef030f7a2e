"""The card of a built data set: what is in it, what was rejected and why, and how to make it again."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from envs.factory.plan import Plan
from envs.factory.store import Record
from envs.families import taskset_class

PACKAGES = ("speciale-rl", "datasets", "pyarrow")


def versions(plan: Plan) -> dict[str, str]:
    """Python, and the packages that the tasks come from. One that is not installed as a distribution is left out."""
    names = [*PACKAGES, *(name for source in plan.sources for name in taskset_class(source.target).packages)]
    found = {"python": platform.python_version()}
    for name in dict.fromkeys(names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def card(plan: Plan, records: Sequence[Record], command: str, versions: Mapping[str, str]) -> str:
    """The text of README.md."""
    return "\n".join(_lines(plan, records, command, versions)) + "\n"


def _lines(plan: Plan, records: Sequence[Record], command: str, versions: Mapping[str, str]) -> Iterator[str]:
    total = sum(record.kept for record in records)
    yield from (f"# {total:,} verified tasks", "")
    yield "Every task was solved by its oracle as it stands in this data set, and passed its family's own checks;"
    yield from ("no two have the same key, and no key is in both splits.", "")
    yield from ("```bash", command, "```", "")
    yield from (
        "| family | made by | split | tasks | asked for | candidates | tasks/s |",
        "|---|---|---|---|---|---|---|",
    )
    for part, record in zip(plan.parts, records, strict=True):
        source = plan.sources[part.source]
        rate = f"{record.kept / record.seconds:,.1f}" if record.seconds else ""
        cells = (source.name, f"`{source.target}`", part.split, f"{record.kept:,}", f"{part.wanted:,}")
        yield f"| {' | '.join(cells)} | {record.next:,} | {rate} |"
    yield from ("", "## Levels", "", "| family | split | level | tasks |", "|---|---|---|---|")
    for part, record in zip(plan.parts, records, strict=True):
        for level in sorted(record.levels, key=int):
            yield f"| {plan.sources[part.source].name} | {part.split} | {level} | {record.levels[level]:,} |"
    yield from ("", "## Rejects", "")
    if not any(record.rejects for record in records):
        yield "None."
    else:
        yield from ("| family | split | reason | candidates |", "|---|---|---|---|")
        for part, record in zip(plan.parts, records, strict=True):
            for reason, number in Counter(record.rejects).most_common():
                yield f"| {plan.sources[part.source].name} | {part.split} | {reason} | {number:,} |"
    for part, record in zip(plan.parts, records, strict=True):
        name = f"{plan.sources[part.source].name}, {part.split}"
        if record.ran_out:
            yield from ("", f"**Ran out** ({name}): {record.ran_out}.")
        for reason, example in sorted(record.examples.items()):
            yield from ("", f"First `{reason}` ({name}): {example}")
    yield from ("", "## Settings", "")
    yield f"- seed: {plan.seed}"
    if plan.keep:
        yield f"- kept by `{plan.keep}`" + (f" with {plan.keep_settings}" if plan.keep_settings else "")
    for source in plan.sources:
        settings = ", ".join(f"{name}={value}" for name, value in source.settings.items()) or "defaults"
        licence = taskset_class(source.target).licence
        yield f"- {source.name}: {settings}; version {source.version}." + (f" Licence: {licence}" if licence else "")
    yield from ("", "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".", "")
    yield "## Columns"
    yield ""
    yield "`id family level key prompt answer metadata seed source`; prompt, answer and metadata are JSON text."
    yield "`datasets.load_from_disk(path)` reads it; `env=built env.path=path` trains on it."
