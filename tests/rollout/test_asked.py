"""Who asks: seeds of requests, and what a rollout has had computed before."""

from __future__ import annotations

import asyncio
import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from rollout_doubles import AddTaskset

from rl.rollout.config import RolloutConfig
from rl.rollout.engine_api import GenerateRequest, Generation
from rl.rollout.orders import GroupSpec
from rl.rollout.player import Asked, Player


def test_a_seed_is_a_hash_of_the_rollout_and_of_the_number_of_the_request() -> None:
    asked = Asked("0/train-3-1/t")
    first, second = asked.next_seed(), asked.next_seed()
    assert first == int.from_bytes(hashlib.blake2b(b"0/train-3-1/t/1", digest_size=8).digest()) >> 1
    assert second == int.from_bytes(hashlib.blake2b(b"0/train-3-1/t/2", digest_size=8).digest()) >> 1
    assert Asked("0/train-3-1/t").next_seed() == first
    assert len({first, second, Asked("1/train-3-1/t").next_seed(), Asked("0/train-3-2/t").next_seed()}) == 4


def test_known_tokens_are_the_longest_prefix_of_all_that_was_computed() -> None:
    asked = Asked("r")
    assert asked.known_tokens([1, 2, 3]) == 0
    asked.computed([1, 2, 3, 4])
    asked.computed([1, 9])  # a branch: an earlier sequence shares more
    assert asked.known_tokens([1, 2, 3, 4, 5]) == 4
    assert asked.known_tokens([1, 2, 8]) == 2
    assert asked.known_tokens([1, 9, 9]) == 2
    assert asked.known_tokens([7]) == 0


@pytest.mark.parametrize(("deterministic", "known"), [(True, [0, 3, 4]), (False, [0, 0, 0])])
def test_what_was_computed_is_kept_where_it_is_read(deterministic: bool, known: list[int]) -> None:
    """Only a deterministic engine reads it; elsewhere an episode of many turns would keep every prompt it had."""
    requests: list[GenerateRequest] = []

    async def generate(request: GenerateRequest) -> Generation:
        requests.append(request)
        return Generation([7, 8], [-1.0, -1.0], "stop", 0, [0, 0])

    player: Any = Player.__new__(Player)
    player.config = config = RolloutConfig(deterministic=deterministic)
    player.renderer = SimpleNamespace(stop_token_ids=(8,))
    asked, spec = Asked("r"), GroupSpec(0, AddTaskset().task(0), 0, 1, 0)
    for prompt in ([1, 2], [1, 2, 7, 8], [1, 2, 7, 8, 9]):
        asyncio.run(player._generate(spec, config, generate, asked, prompt, 4))
    assert [request.known_tokens for request in requests] == known
    assert bool(asked._sequences) is deterministic
