"""Chat templates of other models: with tools, without tools, with another markup."""

from __future__ import annotations

import json
from functools import cache

import pytest
from chat_fixtures import SEARCH

from envs.types import Message, ToolCall
from rl.chat.hermes import parse_hermes
from rl.chat.hf_template import HFTemplateRenderer
from rl.chat.renderer import RenderError
from rl.chat.session import Session

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# tools in the prompt, Hermes calls, reasoning of the last cycle only: what Qwen's templates do
HERMES = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.index0 > ns.last %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OTHER = HERMES.replace("tool_call>", "function>")
# Qwen3's way: the newest message has a thinking block also where there was no reasoning
BLOCK = "<think>\n\n</think>\n\n"
NEWEST = HERMES.replace(
    "m.reasoning_content and", "m.role == 'assistant' and (loop.last or m.reasoning_content) and"
).replace("{{ m.reasoning_content }}", "{{ m.reasoning_content or '' }}")
NEWEST = NEWEST.removesuffix("{% endif %}") + "{% if not enable_thinking %}" + BLOCK + "{% endif %}{% endif %}"

PROMPT = (Message("system", "S", tools=(SEARCH,)), Message("user", "Which metal?"))
CALL = ToolCall("search", {"query": "tin"})
CALL_TEXT = '<tool_call>\n{"name": "search", "arguments": {"query": "tin"}}\n</tool_call>'


@cache
def chat_renderer(template: str) -> HFTemplateRenderer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", chat_template=template)
    return HFTemplateRenderer(tokenizer)


def with_eos(template: str, eos: str) -> HFTemplateRenderer:
    """The same tokenizer with another EOS, as base models have it."""
    from copy import deepcopy

    tokenizer = deepcopy(chat_renderer(CHATML).tokenizer)
    tokenizer.add_special_tokens({"eos_token": eos})
    tokenizer.chat_template = template
    return HFTemplateRenderer(tokenizer)


def text_of(chat: HFTemplateRenderer, tokens: list[int]) -> str:
    return chat.tokenizer.decode(tokens)


def test_tool_styles_are_found_by_rendering() -> None:
    assert chat_renderer(CHATML).tool_style == "prompt"
    assert chat_renderer(HERMES).tool_style == "template"
    assert chat_renderer(OTHER).tool_style == "unreadable"
    with pytest.raises(RenderError, match="in a markup that is not known here"):
        chat_renderer(OTHER).render(PROMPT, thinking=False)
    chat_renderer(OTHER).render([Message("user", "hi")], thinking=False)  # without tools it is fine


def test_plain_dialogue() -> None:
    chat = chat_renderer(CHATML)
    tokens = chat.render([Message("system", "S"), Message("user", "hi")], thinking=False)
    expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert text_of(chat, tokens) == expected


@pytest.mark.parametrize("template", [CHATML, HERMES])
def test_a_tool_cycle_appends(template: str) -> None:
    chat = chat_renderer(template)
    session = Session(chat, PROMPT, thinking=False, max_context=10_000)
    assert '"search"' in text_of(chat, session.prompt_tokens())
    said = [*chat.tokenizer.encode(CALL_TEXT), *chat.stop_token_ids]
    message = session.append_sampled(said, [-1.0] * len(said), 0, ended=True)
    assert message == Message("assistant", tool_calls=(CALL,))
    before = session.segments()[0].tokens.tolist()
    session.append_messages([Message("tool", "tin is a metal")])
    after = session.prompt_tokens()
    assert after[: len(before)] == before
    added = text_of(chat, after[len(before) :])
    assert added.startswith("\n<|im_start|>")  # the newline that the template writes after the stop token
    assert "tin is a metal" in added
    assert added.endswith("<|im_start|>assistant\n")
    if template == HERMES:
        whole = text_of(chat, chat.render(session.messages, thinking=False))
        assert text_of(chat, after) == whole


def test_reasoning_that_the_template_drops_branches() -> None:
    chat = chat_renderer(HERMES)
    session = Session(chat, PROMPT, thinking=True, max_context=10_000)
    said = [*chat.tokenizer.encode("<think>\nhm\n</think>\n\ntin"), *chat.stop_token_ids]
    message = session.append_sampled(said, [-1.0] * len(said), 0, ended=True)
    assert message == Message("assistant", "tin", reasoning="hm")
    session.append_messages([Message("user", "why?")])
    assert "hm" not in text_of(chat, session.prompt_tokens())
    session.append_sampled(said, [-1.0] * len(said), 0, ended=True)
    assert len(session.segments()) == 2


def test_cut_off_inside_the_reasoning() -> None:
    chat = chat_renderer(HERMES)
    tokens = chat.tokenizer.encode("<think>\nhm")
    message = chat.parse(tokens, thinking=True, ended=False)
    assert message.parse_error is not None
    assert message.parse_error.startswith(f"the response was cut off after {len(tokens)} tokens")
    assert text_of(chat, chat.close_tokens(tokens, thinking=True)) == "\n</think>\n\n<|im_end|>"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CALL_TEXT.replace("</tool_call>", ""), "not closed by </tool_call>"),
        (CALL_TEXT.replace("{", "", 1), "is not JSON"),
        (CALL_TEXT.replace("name", "nome"), '"name" and "arguments"'),
        (CALL_TEXT.replace('{"query": "tin"}', "3"), "must be a JSON object"),
        (CALL_TEXT + " so", "text after </tool_call>: 'so'"),
        ("so </tool_call>", "without <tool_call>"),
    ],
)
def test_malformed_calls(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_hermes(text)


def test_two_calls() -> None:
    assert parse_hermes(f"I look.\n{CALL_TEXT}\n{CALL_TEXT}") == ("I look.", (CALL, CALL))


def test_no_template_is_named() -> None:
    chat = chat_renderer(CHATML)
    chat.tokenizer.chat_template, kept = None, chat.tokenizer.chat_template
    try:
        with pytest.raises(ValueError, match="no chat template"):
            HFTemplateRenderer(chat.tokenizer)
    finally:
        chat.tokenizer.chat_template = kept


def test_reasoning_is_ended_only_where_it_is_open() -> None:
    chat = chat_renderer(HERMES)

    def ended(text: str) -> str:
        return text_of(chat, chat.end_thinking_tokens(chat.tokenizer.encode(text), thinking=True))

    assert ended("<think>\nhm") == "\n</think>\n\n"
    assert ended("<think>\nhm\n</think>\n\ntin") == ended("tin") == ""


def test_the_turn_ends_where_the_template_ends_it() -> None:
    chat = with_eos(CHATML, "<|endoftext|>")
    end, eos = chat.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert chat.stop_token_ids == (end, eos)
    session = Session(chat, [Message("user", "hi")], thinking=False, max_context=1000)
    said = [*chat.tokenizer.encode("tin"), end]
    assert session.append_sampled(said, [-1.0] * len(said), 0, ended=True) == Message("assistant", "tin")
    session.append_messages([Message("user", "why?")])
    assert session.prompt_tokens() == chat.render(session.messages, thinking=False)
    assert len(session.segments()) == 1
    assert chat.close_tokens(chat.tokenizer.encode("ti"), thinking=False) == [end]


def test_eos_behind_the_last_turn_does_not_branch() -> None:
    chat = with_eos(CHATML + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}", "<|endoftext|>")
    before = [Message("user", "hi"), Message("assistant", "tin <|im_end|>?")]
    added = chat.render_after(before, [Message("user", "why?")], thinking=False)
    assert added is not None
    assert text_of(chat, added) == "\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"


def test_a_space_before_the_end_of_the_turn() -> None:
    chat = with_eos(CHATML.replace("{{ m.content }}<", "{{ m.content }} <"), "<|im_end|>")
    assert chat.stop_token_ids == (chat.tokenizer.eos_token_id,)
    added = chat.render_after(
        [Message("user", "hi"), Message("assistant", "a")], [Message("user", "b")], thinking=False
    )
    assert added is not None
    assert text_of(chat, added) == "\n<|im_start|>user\nb <|im_end|>\n<|im_start|>assistant\n"


def test_a_turn_without_an_end_is_refused() -> None:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    with pytest.raises(ValueError, match="does not begin with a token of its own"):
        with_eos(plain, "<|im_end|>")


@pytest.mark.parametrize(("thinking", "head"), [(False, ""), (True, ""), (True, BLOCK)])
def test_an_empty_thinking_block_of_the_newest_message_does_not_branch(thinking: bool, head: str) -> None:
    chat = chat_renderer(NEWEST)
    session = Session(chat, PROMPT, thinking=thinking, max_context=10_000)
    expected = text_of(chat, session.prompt_tokens())
    said = [*chat.tokenizer.encode(head + CALL_TEXT), *chat.stop_token_ids]
    for message in (Message("tool", "a metal"), Message("tool", "soft"), Message("user", "Which?")):
        assert session.append_sampled(said, [-1.0] * len(said), 0, ended=True).tool_calls == (CALL,)
        session.append_messages([message])
        expected += f"{head}{CALL_TEXT}<|im_end|>\n<|im_start|>{message.role}\n{message.content}<|im_end|>\n"
        expected += "<|im_start|>assistant\n" + ("" if thinking else BLOCK)
    assert text_of(chat, session.prompt_tokens()) == expected
    assert len(session.segments()) == 1


def test_reasoning_before_an_empty_thinking_block_still_branches() -> None:
    chat = chat_renderer(NEWEST)
    history = [*PROMPT, Message("assistant", tool_calls=(CALL,), reasoning="hm"), Message("tool", "a metal")]
    history.append(Message("assistant", "tin", reasoning=""))
    assert chat.render_after(history, [Message("tool", "soft")], thinking=True) is not None
    assert chat.render_after(history, [Message("user", "why?")], thinking=True) is None  # "hm" goes


def test_an_empty_block_that_was_said_is_kept() -> None:
    chat = chat_renderer(CHATML)
    history = [Message("user", "hi"), Message("assistant", f"I write {BLOCK}so")]
    added = chat.render_after(history, [Message("user", "why?")], thinking=False)
    assert added is not None
    assert text_of(chat, added) == "\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"


def test_a_tokenizer_of_own_code_is_not_run_and_nobody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("it asked"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenization_x.py").write_text("raise SystemExit('it ran')\n")
    stored = {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["tokenization_x.X", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"^X is code of its own \(auto_map in tokenizer_config.json\), which is not"):
        HFTemplateRenderer.load(tmp_path)


@pytest.mark.parametrize("stop", ["x", 10**7, -1])
def test_a_stop_token_that_is_none_is_refused(tmp_path, stop):
    chat_renderer(CHATML).tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [stop]}))
    with pytest.raises(ValueError, match=rf"^eos_token_id={stop!r} in .*generation_config.json is no token"):
        HFTemplateRenderer.load(tmp_path)
