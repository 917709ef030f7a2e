"""Who asks: seeds of requests, and what a rollout has had computed before."""

from __future__ import annotations

import hashlib

from rl.rollout.worker import Asked


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
