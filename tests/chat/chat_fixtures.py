"""Shared pieces of the chat tests: a tiny tokenizer, a tool, message strategies."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from envs.types import Message, ToolCall
from rl.chat import dsml
from rl.chat.tokenizer import ChatTokenizer, train_tokenizer
from rl.chat.v32 import V32Renderer

SEARCH = {
    "name": "search",
    "description": "Search the corpus.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}


@cache
def tiny_tokenizer() -> ChatTokenizer:
    texts = ["The price of Silver is 12.", '{"metal": "Silver"}', "<result>Silver</result> is not Gold"] * 20
    return train_tokenizer(iter(texts), 420)


@cache
def renderer() -> V32Renderer:
    return V32Renderer(tiny_tokenizer())


# Text that does not contain markup: control tokens and DSML have their own tests.
_CONTROL = (dsml.BOS, dsml.EOS, dsml.USER, dsml.ASSISTANT, dsml.THINK, dsml.END_THINK, dsml.DSML)
plain = st.text(max_size=30).filter(lambda t: not any(c in t for c in _CONTROL))
names = st.text("abcdefgh_XYZ019-.é", min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3),
    max_leaves=5,
)
calls = st.builds(ToolCall, names, st.dictionaries(names, json_values, max_size=3))


@st.composite
def assistants(draw: st.DrawFn, thinking: bool) -> Message:
    return Message(
        "assistant",
        draw(plain),
        reasoning=draw(plain) if thinking else None,
        tool_calls=tuple(draw(st.lists(calls, max_size=3))),
    )
