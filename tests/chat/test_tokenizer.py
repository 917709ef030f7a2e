"""The tiny tokenizer: exact round trips, stable words, cheap protocol."""

from __future__ import annotations

import pytest
from chat_fixtures import SEARCH, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.chat import dsml
from rl.chat.tokenizer import SPECIAL_TOKENS, ChatTokenizer, protocol_strings, train_tokenizer

_fixed = st.sampled_from([*SPECIAL_TOKENS, *protocol_strings()])


@settings(max_examples=200)
@given(st.lists(st.text() | _fixed | _fixed.map(lambda t: t[: len(t) // 2]), max_size=8).map("".join))
def test_decode_inverts_encode(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_special_ids() -> None:
    tokenizer = tiny_tokenizer()
    assert [tokenizer.token_id(t) for t in SPECIAL_TOKENS] == list(range(7))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert all(len(tokenizer.encode(t)) == 1 for t in (*SPECIAL_TOKENS, *protocol_strings()))


def test_tools_block_is_cheap() -> None:
    tokenizer = tiny_tokenizer()
    assert len(tokenizer.encode(dsml.tools_block([]))) <= 40
    plain = train_tokenizer(["a text"], 300, protocol_tokens=False)
    assert len(plain.encode(dsml.tools_block([]))) > 400
    assert len(tokenizer.encode(dsml.tools_block([SEARCH]))) < 120  # its words are bytes to this tokenizer


def test_a_word_is_the_same_token_in_json_tags_and_prose() -> None:
    tokenizer = tiny_tokenizer()
    (silver,) = tokenizer.encode("Silver")
    for text in (
        '"Silver"',
        ">Silver<",
        "(Silver)",
        '" string="true">Silver</｜DSML｜parameter>',
        "\nSilver",
    ):
        assert silver in tokenizer.encode(text), text


def test_digits_are_single() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.encode("2025") == [tokenizer.token_id(d) for d in "2025"]


def test_save_load_and_transformers(tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save(tmp_path)
    text = f"{dsml.BOS}x<think>Silver {dsml.CALLS_OPEN}\n"
    ids = tokenizer.encode(text)
    assert ChatTokenizer.load(tmp_path).encode(text) == ids

    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    assert loaded.encode(text, add_special_tokens=False) == ids
    assert (loaded.bos_token_id, loaded.eos_token_id) == (0, 1)
    assert loaded.decode(ids) == text


def test_training_is_deterministic() -> None:
    texts = ["one two three two", "three two one"] * 5
    a, b = train_tokenizer(texts, 400), train_tokenizer(texts, 400)
    assert a.encode("three two one four") == b.encode("three two one four")
    assert a.vocab_size == b.vocab_size <= 400


def test_errors_name_the_fix(tmp_path) -> None:
    with pytest.raises(ValueError, match="vocab_size=100"):
        train_tokenizer(["x"], 100)
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        ChatTokenizer.load(tmp_path)
    with pytest.raises(KeyError, match="<nothing>"):
        tiny_tokenizer().token_id("<nothing>")
