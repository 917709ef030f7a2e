"""Tokens as text: nothing is lost, no character is cut, advantages are the learner's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import BASE, make_run, rollout, tokenizer

from rl.tracking.rundir import trajectory_json
from rl.view import token_text
from rl.view.run_list import NotThere
from rl.view.token_text import advantages, find_tokenizer, token_piece, token_texts


@given(st.text(max_size=40).filter(lambda text: token_text.BROKEN not in text))  # it stands for a broken character
def test_the_texts_together_are_the_text(text: str) -> None:
    tokens = tokenizer().encode(text).ids
    assert "".join(token_texts(tokenizer(), tokens)) == tokenizer().decode(tokens, skip_special_tokens=False)


@given(st.lists(st.integers(0, tokenizer().get_vocab_size() - 1), max_size=30))
def test_any_tokens_have_one_text_each(tokens: list[int]) -> None:
    assert len(token_texts(tokenizer(), tokens)) == len(tokens)


def test_a_character_of_several_tokens_stands_at_its_last() -> None:
    tokens = tokenizer().encode("☃!").ids
    texts = token_texts(tokenizer(), tokens)
    assert len(tokens) > 2
    assert texts[-2:] == ["☃", "!"]
    assert set(texts[:-2]) == {""}


def test_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_text, "PIECE", 7)
    row = trajectory_json(rollout(answer="It is in Oslo, ☃☃ they say.", version=3))
    (segment,) = row["segments"]
    pieces, start = [], 0
    while start < len(segment["tokens"]):
        pieces.append(token_piece(row, 0, start, tokenizer()))
        start += len(pieces[-1].ids)
    assert [t for p in pieces for t in p.ids] == segment["tokens"]
    assert "".join(t for p in pieces for t in p.texts) == "Where is the library?It is in Oslo, ☃☃ they say."
    (span,) = segment["spans"]
    logprobs = [x for p in pieces for x in p.logprobs]
    assert logprobs[span["start"] :] == span["logprobs"]
    assert set(logprobs[: span["start"]]) == {None}
    assert {v for p in pieces for v in p.versions} == {None, 3}
    assert token_piece(row, 0, 0, None).texts[0] == f"#{segment['tokens'][0]} "
    for segment_number, at in ((1, 0), (0, 999)):
        with pytest.raises(NotThere):
            token_piece(row, segment_number, at, None)
    with pytest.raises(NotThere, match=r"tracking\.save_tokens"):
        token_piece(trajectory_json(rollout(), tokens=False), 0, 0, None)


def test_advantages_leave_the_masked_out() -> None:
    group = [(1.0, None), (0.0, None), (0.5, "env_error"), (None, None)]
    assert advantages(group, "mean") == [0.5, -0.5, 0.0, 0.0]
    assert advantages(group, "std")[0] == pytest.approx(1.0, abs=1e-5)


def test_where_the_tokenizer_is_looked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    found, where = find_tokenizer(run, {"base": {"source": BASE}})
    assert found is not None
    assert where.endswith("tiny_dsa_base")
    missing, looked = find_tokenizer(run, {"policy": {"path": "elsewhere"}, "base": {"source": "pkg://no.such/place"}})
    assert missing is None
    assert str(run.path / "policy") in looked
    assert "elsewhere" in looked
    own = run.checkpoints / "step_000003" / "policy"
    own.mkdir(parents=True)
    tokenizer().save(str(own / "tokenizer.json"))
    assert find_tokenizer(run, {})[1] == str(own)
