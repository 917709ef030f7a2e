"""Text that spells control tokens: from a tool, a user, an argument, a schema; in both renderers; never one token."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from chat_fixtures import SEARCH, renderer
from hypothesis import given
from hypothesis import strategies as st
from test_hf_template import CHATML, HERMES, chat_renderer

from envs.types import Message, ToolCall
from rl.chat import dsml
from rl.chat.control_text import MARK, SPACE, ControlText, is_markup
from rl.chat.hf_template import HFTemplateRenderer
from rl.chat.v32 import V32Renderer

V32_WORDS = (dsml.EOS, dsml.USER, dsml.ASSISTANT, dsml.THINK, dsml.END_THINK, dsml.DSML, dsml.CALLS_OPEN)
CHATML_WORDS = ("<|im_start|>", "<|im_end|>", "<|im_end", "|im_end|>")
KINDS = {"v32": V32_WORDS, "chatml": CHATML_WORDS, "hermes": CHATML_WORDS}


@cache
def chat_of(kind: str) -> V32Renderer | HFTemplateRenderer:
    return renderer() if kind == "v32" else chat_renderer(CHATML if kind == "chatml" else HERMES)


def dialogue(text: str) -> list[Message]:
    """The text in every place that comes from outside."""
    tool = {**SEARCH, "description": f"Search. {text}"}
    return [
        Message("system", f"S {text}", tools=(tool,)),
        Message("user", f"Which? {text}"),
        Message("assistant", "", reasoning=f"Hm {text}", tool_calls=(ToolCall("search", {"query": f"q {text}"}),)),
        Message("tool", f"found {text}"),
    ]


def control(kind: str, tokens: list[int]) -> Counter[int]:
    chat = chat_of(kind)
    if isinstance(chat, V32Renderer):
        known = {chat.tokenizer.token_id(t) for t in chat.tokenizer.added_tokens if is_markup(t)}
    else:
        known = set(chat.tokenizer.added_tokens_decoder)
    return Counter(t for t in tokens if t in known)


def decoded(kind: str, tokens: list[int]) -> str:
    chat = chat_of(kind)
    return chat.tokenizer.decode(tokens)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_no_text_becomes_a_control_token(kind: str, data: st.DataObject) -> None:
    words = st.sampled_from([*KINDS[kind], "<", "|", " ", "a", "ä", "\n"])
    text = "".join(data.draw(st.lists(words, max_size=8)))
    thinking = kind == "v32"
    chat = chat_of(kind)
    plain, spelled = (chat.render(dialogue(t), thinking=thinking) for t in ("a", text))
    assert control(kind, spelled) == control(kind, plain)
    assert MARK not in decoded(kind, spelled)
    assert decoded(kind, spelled).count(f"found {text}") == 1, "nothing of the text is lost"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_appended_too(kind: str) -> None:
    """A session renders a result when it arrives, after tokens that stand."""
    chat, thinking = chat_of(kind), kind == "v32"
    text = "".join(KINDS[kind])
    before, new = dialogue("a")[:-1], [Message("tool", f"found {text}")]
    tokens = chat.render_after(before, new, thinking=thinking)
    plain = chat.render_after(before, [Message("tool", "found a")], thinking=thinking)
    assert tokens is not None
    assert plain is not None
    assert control(kind, tokens) == control(kind, plain)
    assert f"found {text}" in decoded(kind, tokens)


def test_a_mark_in_a_message_is_no_way_out() -> None:
    """Whoever knows the mark gains nothing: it is replaced before the marks are set."""
    chat = chat_of("chatml")
    hidden = f"<{MARK}|im_end|>"
    tokens = chat.render([Message("user", hidden)], thinking=False)
    assert control("chatml", tokens) == control("chatml", chat.render([Message("user", "a")], thinking=False))
    assert "<\ufffd|im_end|>" in decoded("chatml", tokens)


def test_overlapping_spellings() -> None:
    """``<<a>b>`` holds ``<<a>`` and ``<a>``: both are cut."""

    def encode(text: str) -> list[int]:
        return [-1] if text in ("<a>", "<<a>") else [ord(c) for c in text]

    text = ControlText(["<a>", "<<a>"], encode, lambda ids: "".join(map(chr, ids)))
    marked = text.mark(Message("user", "<<a>b>")).content
    assert marked == f"<{MARK}<{MARK}a>b>"
    assert text.encode(marked) == [ord(c) for c in "<<a>b>"]


def test_a_tokenizer_that_begins_pieces_with_a_space() -> None:
    """Cut into pieces, its text would get spaces inside; a zero-width one breaks the spelling instead."""
    text = ControlText(["<a>"], lambda t: [ord(c) for c in f" {t}"], lambda ids: "".join(map(chr, ids)))
    assert text.mark(Message("user", "x<a>")).content == f"x<{SPACE}a>"


def test_what_was_sampled_stays_what_it_was() -> None:
    message = Message("assistant", "<|im_start|>", parse_error="no")
    chat = chat_of("chatml")
    assert isinstance(chat, HFTemplateRenderer)
    assert chat._template.control.mark(message) is message


@pytest.mark.parametrize(
    ("token", "markup"),
    [("<|im_end|>", True), ("[INST]", True), ("｜DSML｜", True), ("    ", False), ("hello", False), ("<", False)],
)
def test_which_added_tokens_are_markup(token: str, markup: bool) -> None:
    assert is_markup(token) is markup
