"""A response's tokens by kind: by hand, against a slow search, and always adding up."""

from __future__ import annotations

import pytest
from chat_fixtures import assistants, renderer, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hf_template import CALL_TEXT, CHATML, HERMES, chat_renderer

from envs.types import Message, ToolCall
from rl.chat import dsml
from rl.chat.split import Split, _find
from rl.chat.tokenizer import ChatTokenizer, train_tokenizer
from rl.chat.v32 import V32Renderer

CALL = dsml.write_calls([ToolCall("search", {"query": "Silver"})])
END_THINK_ID = tiny_tokenizer().token_id(dsml.END_THINK)


def size(text: str, tokenizer: ChatTokenizer | None = None) -> int:
    return len((tokenizer or tiny_tokenizer()).encode(text))


def test_a_call_after_thinking() -> None:
    tokens = tiny_tokenizer().encode(f"I look.</think>Wait\n\n{CALL}{dsml.EOS}")
    split = renderer().split(tokens, thinking=True)
    assert split == Split(size("I look.</think>"), size(CALL), size("Wait\n\n") + 1)
    # In chat mode the prompt has closed the thinking: the same mark is a stray one.
    assert renderer().split(tokens, thinking=False) == Split(0, size(CALL), len(tokens) - size(CALL))


def test_markup_of_several_tokens() -> None:
    """The real tokenizer has no token for `<｜DSML｜function_calls>`; nor has this one."""
    plain = train_tokenizer(iter([CALL, "I look."] * 5), 420, protocol_tokens=False)
    assert size(dsml.CALLS_OPEN, plain) > 3
    tokens = plain.encode(f"I look.</think>Wait. {CALL}{dsml.EOS}")
    split = V32Renderer(plain).split(tokens, thinking=True)
    assert split == Split(size("I look.</think>", plain), size(CALL, plain), size("Wait. ", plain) + 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Split()),
        (dsml.EOS, Split(answer=1)),
        ("I think", Split(thinking=size("I think"))),  # cut off
        (f"I think{dsml.EOS}", Split(size("I think"), 0, 1)),  # ended without the mark
        (f"I{CALL}", Split(thinking=size(f"I{CALL}"))),  # a call inside the thinking is thinking
        (f"</think>{dsml.CALLS_OPEN}\n{dsml.INVOKE_OPEN}x", Split(1, size(f"{dsml.CALLS_OPEN}\n{dsml.INVOKE_OPEN}x"))),
        (f"</think>{CALL}a{CALL}", Split(1, 2 * size(CALL), 1)),
        (f"</think>a{dsml.CALLS_CLOSE}", Split(1, 0, size(f"a{dsml.CALLS_CLOSE}"))),
    ],
)
def test_borders(text: str, expected: Split) -> None:
    assert renderer().split(tiny_tokenizer().encode(text), thinking=True) == expected


def test_hermes_calls() -> None:
    chat = chat_renderer(HERMES)  # one token for every byte
    text = f"<think>\nhm\n</think>\n\nSo.\n{CALL_TEXT}\n{CALL_TEXT}"
    tokens = [*chat.tokenizer.encode(text), *chat.stop_token_ids]
    thinking, calls = len("<think>\nhm\n</think>"), 2 * len(CALL_TEXT)
    assert chat.split(tokens, thinking=True) == Split(thinking, calls, len(tokens) - thinking - calls)
    assert chat.split(tokens[:9], thinking=True) == Split(thinking=9)
    assert chat.split(chat.tokenizer.encode(f"No thought. {CALL_TEXT}"), thinking=False) == Split(0, len(CALL_TEXT), 12)


def test_a_template_that_opens_the_thinking() -> None:
    chat = chat_renderer(CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"))
    tokens = chat.tokenizer.encode("hm</think>tin")
    assert chat.split(tokens, thinking=True) == Split(thinking=len("hm</think>"), answer=3)


ANY = st.lists(st.integers(0, tiny_tokenizer().vocab_size - 1), max_size=24)
PIECES = st.lists(
    st.sampled_from([dsml.END_THINK, dsml.CALLS_OPEN, dsml.CALLS_CLOSE, CALL, "｜", "<", "a é", "\n\n"]), max_size=8
)


@settings(max_examples=150)
@given(ANY | PIECES.map(lambda p: tiny_tokenizer().encode("".join(p))), st.booleans(), st.booleans())
def test_kinds_add_up_and_thinking_ends_with_its_mark(tokens: list[int], thinking: bool, ended: bool) -> None:
    tokens = [*tokens, 1] if ended else tokens
    split = renderer().split(tokens, thinking=thinking)
    assert split.thinking + split.tool + split.answer == len(tokens)
    assert min(split.thinking, split.tool, split.answer) >= 0
    assert split.answer >= ended
    if thinking and END_THINK_ID in tokens:
        assert split.thinking == tokens.index(END_THINK_ID) + 1
    if not thinking:
        assert split.thinking == 0


@settings(max_examples=60)
@given(st.sampled_from([True, False]).flatmap(lambda t: st.tuples(st.just(t), assistants(t))))
def test_what_a_perfect_policy_says(case: tuple[bool, Message]) -> None:
    thinking, message = case
    question = Message("user", "q")
    if thinking and message.reasoning is None:
        return
    before = renderer().render([question], thinking=thinking)
    tokens = renderer().render([question, message], thinking=thinking)[len(before) :]
    split = renderer().split(tokens, thinking=thinking)
    assert split.thinking == (size(f"{message.reasoning}</think>") if thinking else 0)
    assert (split.tool > 0) == bool(message.tool_calls)


@settings(max_examples=100)
@given(PIECES, st.sampled_from([1, 7, 512]))
def test_it_finds_what_a_slow_search_finds(pieces: list[str], size: int) -> None:
    ids, decode = tiny_tokenizer().encode("".join(pieces)), tiny_tokenizer().decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl.chat.split._PIECE", size)
        found = _find(CALL, ids, decode)
    ends = [e for e in range(len(ids) + 1) if CALL in decode(ids[:e])]
    if not ends:
        assert found is None
        return
    start = max(s for s in range(ends[0]) if CALL in decode(ids[s : ends[0]]))
    assert found == (start, ends[0])


def test_a_long_response() -> None:
    chat = chat_renderer(HERMES)
    thought = "ab" * 3000
    for shift in range(0, 12, 3):  # marks that lie across the borders of what is decoded at once
        text = f"{'x' * shift}{thought[: 1020 - shift]}</think>{thought}{CALL_TEXT}"
        tokens = chat.tokenizer.encode("<think>" + text)
        expected = Split(len("<think>") + 1020 + len("</think>"), len(CALL_TEXT), len(thought))
        assert chat.split(tokens, thinking=True) == expected
