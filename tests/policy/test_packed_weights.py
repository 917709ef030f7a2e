"""Weights as Ray's store keeps them: the same numbers, each array once."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from rl.policy.packed_weights import pack, packed_bytes, unpack


def test_there_and_back() -> None:
    named = {
        "a": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "turned": torch.randn(2, 3).T,
        "whole": torch.arange(4),
        "array": np.arange(3.0),
        "none": torch.empty(0, 2),
        "none_either": torch.empty(0, 2),
    }
    found = unpack(pack(named))
    assert list(found) == list(named)
    for name, value in named.items():
        assert torch.equal(found[name], torch.as_tensor(value)), name
        assert found[name].dtype == torch.as_tensor(value).dtype


def test_a_tied_head_travels_once() -> None:
    embedding = torch.randn(6, 4)
    named = {"embed": embedding, "lm_head": embedding, "part": embedding[:3], "turned": embedding.view(4, 6)}
    packed = pack(named)
    assert packed["embed"][0] is packed["lm_head"][0]
    assert packed_bytes(packed) == (2 + 0.5) * 6 * 4 * 4  # what is only a part of it, or of another shape, is its own
    buffers: list[pickle.PickleBuffer] = []
    stored = pickle.dumps(packed, protocol=5, buffer_callback=buffers.append)  # as Ray does it
    assert sum(buffer.raw().nbytes for buffer in buffers) == packed_bytes(packed)
    found = unpack(pickle.loads(stored, buffers=buffers))
    assert all(torch.equal(found[name], value) for name, value in named.items())


def test_what_is_on_the_host_is_not_copied() -> None:
    value = torch.zeros(3)
    (array, _) = pack({"a": value})["a"]
    value += 1
    assert array.tolist() == [1.0, 1.0, 1.0]
