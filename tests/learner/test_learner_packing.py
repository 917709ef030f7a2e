"""Packing: nothing lost or duplicated, never above the budget; rows, targets and replay stay aligned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.learner.pack_item import PackItem
from rl.learner.packing import best_fit_decreasing, collate, pack
from rl.types import ReplayRecord


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(100, 300))
def test_bins_hold_every_index_once(lengths: list[int], capacity: int) -> None:
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in b) <= capacity for b in bins)
    # two bins that fit into one would be a bug: at most one bin is half empty
    assert sum(sum(lengths[i] for i in b) * 2 <= capacity for b in bins) <= 1


def test_longest_first_by_hand() -> None:
    # 6; 5; 4 joins 6 (10 = full); 3 joins 5; 2 joins 5+3
    assert best_fit_decreasing([2, 3, 4, 5, 6], 10) == [[4, 2], [3, 1, 0]]


def test_too_long_segment_names_the_setting() -> None:
    with pytest.raises(ValueError, match="11 tokens does not fit max_tokens_per_microbatch=10"):
        best_fit_decreasing([3, 11], 10)


@st.composite
def items(draw: st.DrawFn) -> list[PackItem]:
    out = []
    for index in range(draw(st.integers(0, 12))):
        mask = np.array([False, *draw(st.lists(st.booleans(), max_size=30))])
        length = len(mask)
        tokens = index * 1000 + np.arange(length)  # every token tells where it is from
        replay = ReplayRecord(
            np.arange(length) < length - 1,
            experts=(tokens % 7)[:, None, None].astype(np.int16),
            indexer=(tokens % 11)[:, None, None].astype(np.int16),
            support=[np.array([t]) if m else None for t, m in zip(tokens, mask, strict=True)]
            if draw(st.booleans())
            else None,
        )
        out.append(
            PackItem(
                tokens,
                mask,
                weight=1.0 + index,
                advantage=-float(index),
                logprobs=-tokens.astype(np.float32),
                exact=tokens % 5 == 0,
                replay=replay if draw(st.booleans()) else None,
                kl_coef=0.5 * index,
            )
        )
    return out


@given(items(), st.integers(40, 120))
def test_every_target_once_with_its_own_data(given_items: list[PackItem], budget: int) -> None:
    expected = sorted(int(t) for item in given_items for t in item.tokens[item.loss_mask])
    seen = []
    for batch in pack(given_items, budget):
        assert len(batch.tokens_T) == batch.cu_seqlens[-1] <= budget
        targets = batch.targets_N.numpy()
        seen.extend(targets.tolist())
        # the row that predicts a target is the token before it, in the same segment
        assert (batch.tokens_T[batch.predict_N].numpy() == targets - 1).all()
        assert (batch.sampler_logprobs_N.numpy() == -targets.astype(np.float32)).all()
        assert (batch.exact_N.numpy() == (targets % 5 == 0)).all()
        source = targets // 1000
        assert (batch.weights_N.numpy() == 1.0 + source).all()
        assert (batch.advantages_N.numpy() == -source).all()
        assert (batch.kl_coefs_N.numpy() == 0.5 * source).all()
        starts = np.array(batch.cu_seqlens)
        assert (np.searchsorted(starts, batch.predict_N.numpy(), side="right") - 1 == batch.segment_N.numpy()).all()
        if batch.experts_TLK is not None:
            assert batch.replay_valid_T is not None
            valid = batch.replay_valid_T.numpy()
            tokens = batch.tokens_T.numpy()
            assert (batch.experts_TLK[:, 0, 0].numpy()[valid] == tokens[valid] % 7).all()
            assert batch.indexer_TLk is not None
            assert (batch.indexer_TLk[:, 0, 0].numpy()[valid] == tokens[valid] % 11).all()
            assert (batch.indexer_TLk.numpy()[~valid] == -1).all()
            replayed = [given_items[t // 1000].replay is not None for t in tokens]
            assert (valid == np.array(replayed)).all()
        if batch.support_N is not None:
            assert len(batch.support_N) == len(targets)
            for kept, target in zip(batch.support_N, targets, strict=True):
                record = given_items[target // 1000].replay
                assert (kept is None) == (record is None or record.support is None)
                assert kept is None or kept.tolist() == [target]
    assert sorted(seen) == expected


def test_tail_behind_the_last_target_is_not_run() -> None:
    item = PackItem(np.arange(10), np.array([False] * 4 + [True] * 2 + [False] * 4))
    batch = collate([item])
    # targets 4 and 5 are predicted by rows 3 and 4: five input tokens
    assert batch.cu_seqlens == [0, 5]
    assert batch.predict_N.tolist() == [3, 4]
    assert batch.targets_N.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_mask": np.array([True, True])}, r"loss_mask\[0\] is True"),
        ({"logprobs": np.zeros(3)}, "logprobs has 3 rows for 2 tokens"),
        ({"replay": ReplayRecord(np.zeros(1, bool))}, "replay has 1 rows for 2 tokens"),
    ],
)
def test_malformed_items_say_what_is_wrong(change: dict, message: str) -> None:
    fields = {"tokens": np.arange(2), "loss_mask": np.array([False, True]), "name": "trajectory 7"} | change
    with pytest.raises(ValueError, match=f"trajectory 7: {message}"):
        PackItem(**fields)


def test_replay_of_different_shapes_is_an_error() -> None:
    def item(experts: int) -> PackItem:
        record = ReplayRecord(np.ones(2, bool), np.zeros((2, 1, experts), np.uint8))
        return PackItem(np.arange(2), np.array([False, True]), replay=record)

    with pytest.raises(ValueError, match="different"):
        collate([item(2), item(3)])
