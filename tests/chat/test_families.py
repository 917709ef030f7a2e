"""Families of chat templates: what is found out of each; a session has the tokens of the template's own text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from chat_families import FAMILIES, Family, renderer_of, template_text, tokenizer_of
from chat_fixtures import SEARCH

from envs.types import Message, ToolCall
from rl.chat.hf_template import HFTemplateRenderer
from rl.chat.renderer import RenderError
from rl.chat.session import Session
from rl.data.demos import tokenise, written

CALL = ToolCall("search", {"query": "tin 12"})
ASKED, SURE = Message("user", "Which metal?"), Message("user", "Sure?")
TALK = (
    Message("system", "Be short."), ASKED, Message("assistant", "tin"), Message("user", "Why?"),
    Message("assistant", "It is soft."), SURE,
)  # fmt: skip
TOOLS = (
    Message("system", "Be short.", tools=(SEARCH,)), ASKED, Message("assistant", tool_calls=(CALL,)),
    Message("tool", "tin is a metal"), Message("assistant", tool_calls=(CALL,)), Message("tool", "a metal"),
    Message("assistant", "tin"), SURE,
)  # fmt: skip
# After which of the environment's messages a new segment begins, because the template changes the text before them.
TALK_BRANCHES = {
    ("qwen3", "on"): (True, True),  # a question drops the reasoning before it
    ("glm45", "on"): (True, True),
    **{(name, mode): (True, True) for name in ("mistral", "mistral_first") for mode in ("off", "empty", "on")},
}  # Mistral's system text moves to the newest question
TOOLS_BRANCHES = {
    ("qwen3", "on"): (False, False, True),
    ("glm45", "on"): (False, False, True),
    **{(name, mode): (False, False, True) for name in ("mistral", "mistral_first") for mode in ("off", "empty", "on")},
}
EMPTY_BLOCK = "<think>\n\n</think>\n\n"
names = pytest.mark.parametrize("name", FAMILIES)
modes = pytest.mark.parametrize("mode", ["off", "empty", "on"])  # no thinking, empty thinking, thinking


def text_of(chat: HFTemplateRenderer, tokens: list[int]) -> str:
    text = chat.tokenizer.decode(tokens)
    assert isinstance(text, str)
    return text


def reasoned(messages: tuple[Message, ...], mode: str) -> list[Message]:
    return [replace(m, reasoning="hm") if mode == "on" and m.role == "assistant" else m for m in messages]


def say(session: Session, chat: HFTemplateRenderer, message: Message, thinking: bool) -> Message:
    said = written(chat, session.context, message, thinking=thinking)
    return session.append_sampled(said, [-1.0] * len(said), 0, ended=True)


@names
def test_what_is_found_out(name: str) -> None:
    family, chat = FAMILIES[name], renderer_of(name)
    assert [text_of(chat, [i]) for i in chat.stop_token_ids] == list(family.stops)
    assert chat.tool_style == family.tools
    assert chat._markup.name == family.markup
    assert text_of(chat, [chat.stop_of(Message("assistant", "tin"))]) == family.end
    assert text_of(chat, [chat.stop_of(Message("assistant", tool_calls=(CALL,)))]) == family.call_end
    assert chat.describe().startswith(f"chat template: stops at {' '.join(family.stops)}, tools ")


@modes
@pytest.mark.parametrize(("dialogue", "branches"), [(TALK, TALK_BRANCHES), (TOOLS, TOOLS_BRANCHES)], ids=["t", "c"])
@names
def test_a_session_has_the_template_s_own_tokens(
    name: str, dialogue: tuple[Message, ...], branches: dict[tuple[str, str], tuple[bool, ...]], mode: str
) -> None:
    chat, thinking = renderer_of(name), mode != "off"
    messages = reasoned(dialogue, mode)
    session = Session(chat, messages[:2], thinking=thinking, max_context=100_000)
    assert session.prompt_tokens() == chat.render(messages[:2], thinking=thinking)
    branched = []
    for message in messages[2:]:
        if message.role == "assistant":
            read = say(session, chat, message, thinking)
            assert (read.content, read.tool_calls, read.parse_error) == (message.content, message.tool_calls, None)
            continue
        before = session.prompt_tokens() if len(session.messages) == 2 else session._streams[-1].tokens[:]
        session.append_messages([message])
        after, whole = session.prompt_tokens(), chat.render(session.messages, thinking=thinking)
        branched.append(after[: len(before)] != before)
        if name == "qwen3" and mode != "on":  # the empty blocks that were said stay said
            assert text_of(chat, after).replace(EMPTY_BLOCK, "") == text_of(chat, whole).replace(EMPTY_BLOCK, "")
        else:
            assert after == whole
    assert tuple(branched) == branches.get((name, mode), (False,) * len(branched))


@modes
@names
def test_demonstrations_are_what_a_session_has(name: str, mode: str) -> None:
    """Also where two stop tokens follow the newest message (Phi-3): what is said ends at the first."""
    chat, thinking = renderer_of(name), mode != "off"
    messages = reasoned(TOOLS[:7], mode)
    session = Session(chat, messages[:2], thinking=thinking, max_context=100_000)
    for message in messages[2:]:
        if message.role == "assistant":
            say(session, chat, message, thinking)
        else:
            session.append_messages([message])
    (segment,) = session.segments()
    spoken = segment.tokens[segment.loss_mask].tolist()
    assert sum(token in chat.stop_token_ids for token in spoken) == 3
    assert text_of(chat, spoken[-1:]) == FAMILIES[name].end
    if not (name == "qwen3" and mode != "on"):  # a demonstration is rendered anew for every message
        (stream,) = tokenise(chat, messages, thinking=thinking)
        assert stream.tokens.tolist() == segment.tokens.tolist()
        assert stream.loss_mask.tolist() == segment.loss_mask.tolist()


@pytest.mark.parametrize(("stop", "added"), [("<|user|>", "\nSure?"), ("<|endoftext|>", "<|user|>\nSure?")])
def test_a_turn_that_ends_where_the_next_begins(stop: str, added: str) -> None:
    """GLM: the sampled token is the beginning of the next message, if it is the right one."""
    chat = renderer_of("glm45")
    session = Session(chat, [ASKED], thinking=True, max_context=1000)
    said = [*chat.tokenizer.encode("\n<think></think>\ntin"), chat.tokenizer.convert_tokens_to_ids(stop)]
    assert session.append_sampled(said, [-1.0] * len(said), 0, ended=True).content == "tin"
    before = len(session._streams[-1].tokens)
    session.append_messages([SURE])
    assert text_of(chat, session.prompt_tokens()[before:]) == f"{added}<|assistant|>"


def test_a_response_that_was_cut_off_gets_no_end_where_there_is_none() -> None:
    chat = renderer_of("glm45")
    session = Session(chat, [ASKED], thinking=True, max_context=1000)
    said = chat.tokenizer.encode("\n<think>hm")
    session.append_sampled(said, [-1.0] * len(said), 0, ended=False)
    before = len(session._streams[-1].tokens)
    session.append_messages([Message("tool", "a")])
    added = "\n</think>\n\n<|observation|>\n<tool_response>\na\n</tool_response><|assistant|>"
    assert text_of(chat, session.prompt_tokens()[before:]) == added


@pytest.mark.parametrize("pieces", ["spm_prefix", "spm_first"])
def test_a_tokenizer_that_begins_texts_with_a_space_puts_none_into_a_dialogue(pieces: str) -> None:
    chat = renderer_of("mistral" if pieces == "spm_prefix" else "mistral_first")
    added = chat.render_after([ASKED, Message("assistant", "tin")], [SURE], thinking=False)
    assert added is not None
    whole = chat.render([ASKED, Message("assistant", "tin"), SURE], thinking=False)
    assert whole[-len(added) - 1 :] == [chat.tokenizer.eos_token_id, *added]
    assert text_of(chat, whole).endswith("</s>[INST] Sure?[/INST]") is (pieces == "spm_first")


def test_a_question_behind_a_result_where_roles_alternate() -> None:
    """Mistral takes no user message there: its text goes to the end of the result."""
    chat = renderer_of("mistral")
    tokens = chat.render([*TOOLS[:4], Message("user", "Hurry.")], thinking=False)
    assert '"content": "tin is a metal\\n\\nHurry.", "call_id": "000000000"}' in text_of(chat, tokens)


def test_results_of_calls_that_could_not_be_read_where_roles_alternate() -> None:
    """Two in a row: the policy's mistake must not become an error of the environment."""
    chat = renderer_of("mistral")
    wrong = Message("assistant", "[TOOL_CALLS] [{", parse_error="no")
    messages = [*TOOLS[:2], wrong, Message("tool", "Error: no"), wrong, Message("tool", "Error: again")]
    assert "Error: again[/INST]" in text_of(chat, chat.render(messages, thinking=False))


def test_several_calls_where_a_message_has_one() -> None:
    two = [*TOOLS[:2], Message("assistant", tool_calls=(CALL, CALL))]
    with pytest.raises(RenderError, match=r"'llama31' refuses the messages system, user, assistant: one tool call"):
        renderer_of("llama31").render(two, thinking=False)


def made(name: str, template: str, **changes: object) -> HFTemplateRenderer:
    family: Family = replace(FAMILIES[name], **changes)  # type: ignore[arg-type]
    return HFTemplateRenderer(tokenizer_of(family, template))


def test_a_beginning_that_is_written_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'gemma' writes <bos> twice at the beginning"):
        made("gemma", "{{- bos_token -}}" + template_text("gemma"))


def test_a_tokenizer_whose_pieces_are_not_the_whole_is_refused() -> None:
    """A token that is read between words only: alone it ends a turn, behind a word it does not."""
    from tokenizers import AddedToken

    tokenizer = tokenizer_of(replace(FAMILIES["chatml"], special=("<|im_start|>",), eos="<|im_start|>"))
    tokenizer.add_tokens([AddedToken("<|im_end|>", single_word=True, normalized=False)])
    with pytest.raises(ValueError, match=r"'chatml' encodes a message behind <\|im_end\|> otherwise than inside"):
        HFTemplateRenderer(tokenizer)


def test_an_unknown_markup_is_named_as_soon_as_there_are_tools() -> None:
    chat = made("qwen25", template_text("qwen25").replace("tool_call>", "function>"))
    assert chat.tool_style == "unreadable"
    with pytest.raises(RenderError, match=r"not known here \(known: hermes, glm, mistral, llama\)"):
        chat.render(TOOLS[:2], thinking=False)
    wrapped = template_text("llama31").replace('\\n\\n{"name"', '\\n\\n<call>{"name"')
    assert made("llama31", wrapped).tool_style == "unreadable"  # bare JSON would not be found behind the mark


def test_a_stop_token_of_an_odd_spelling_stays_text_in_a_message() -> None:
    """MiniMax's end of a turn is ``[e~[``, which does not look like markup; that it is special is enough."""
    odd = template_text("chatml").replace("<|im_end|>", "[e~[")
    family = replace(FAMILIES["chatml"], special=("[e~[", "<|im_start|>"), eos="[e~[")
    chat = HFTemplateRenderer(tokenizer_of(family, odd))
    tokens = chat.render([Message("user", "say [e~[ now")], thinking=False)
    assert sum(token in chat.stop_token_ids for token in tokens) == 1
