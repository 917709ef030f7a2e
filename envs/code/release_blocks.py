"""Blocks of candidates, in the order in which a build looks at them, and which releases each is about.

    blocks = order_of(["toolz", "mido"], {"removal": 2, "pair": 1}, None)
    # toolz removal 0, mido removal 0, toolz pair 0, mido pair 0, toolz removal 1, mido removal 1

The first blocks of all packages come before their second ones, so that a build that is ended early is of many packages.
A few packages at a time, so that what is known of a release is used while it is in memory; kind by kind, so that two
processes rarely wait for the same base run.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from envs.code.release_index import Release
from envs.taskset import Split

# Candidates of one block: a pair and the functions it changed, or removals or earlier functions of a package. As many
# as a worker of envs-build is asked for at once.
SLOTS = 32
KINDS = ("removal", "earlier", "pair")  # in this order: what costs the least for a task first
_TOGETHER = 6  # packages


def order_of(
    packages: Iterable[str], numbers: Mapping[str, int], draw: random.Random | None
) -> list[tuple[str, str, int]]:
    """(package, kind, number) of all blocks, ``numbers`` of each kind for a package; the packages as they are given, or
    in an order that is drawn."""
    drawn = list(packages)
    if draw is not None:
        draw.shuffle(drawn)
    return [
        (name, kind, number)
        for number in range(max(numbers.values()))
        for first in range(0, len(drawn), _TOGETHER)
        for kind in KINDS
        if number < numbers.get(kind, 0)
        for name in drawn[first : first + _TOGETHER]
    ]


def releases_of(
    known: Sequence[Release], kind: str, number: int, split: Split, cutoff: str, count: int
) -> tuple[Release | None, Release] | None:
    """(older, newer) of a block, None when there are none. Pairs: of the ``count`` newest releases of the split, the
    newest pair first. Of a removal, older is the last release before the cutoff when the split is held out, and nothing
    else; of earlier functions too. ``known``: the oldest first."""
    early = [release for release in known if release.date[:10] < cutoff]
    late = [release for release in known if release.date[:10] >= cutoff]
    if kind == "pair":
        mine = early if split == "train" else known[len(early) - 1 if early else 0 :]
        found = list(pairwise(mine[-count:]))[::-1]
        return found[number] if number < len(found) else None
    if not early or (split == "heldout" and not late):
        return None
    return (early[-1], late[-1]) if split == "heldout" else (None, early[-1])
