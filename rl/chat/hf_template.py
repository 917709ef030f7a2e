"""Any Hugging Face chat template as a renderer, with the Hermes markup for tool calls.

The template of the model's own tokenizer writes the text. Calls are read in the markup that Qwen,
SmolLM and others write::

    <tool_call>
    {"name": "search", "arguments": {"query": "…"}}
    </tool_call>

What a template does is found out by rendering with it, not by the model's name. A template that shows
tools and writes calls this way is used as it is. One that knows no tools (SmolLM2) gets them described
in the system message, and reads results as user turns; so does one that refuses tools or their results. One
with another markup for calls is refused as soon as a dialogue has tools. For templates that refuse a
system message, user messages in a row or an empty message see ``template_rules``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from envs.types import Message, ToolCall
from rl.chat.control_text import ControlText
from rl.chat.hermes import CALL, END_CALL, parse_hermes
from rl.chat.renderer import RenderError, Retention, cut_off_error
from rl.chat.split import Split, split_response
from rl.chat.template_rules import EMPTY, TemplateRules

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK, END_THINK = "<think>", "</think>"
_EMPTY_THINKING = re.compile(rf"{THINK}\s*{END_THINK}\s*")

_TOOLS_PROMPT = """\
# Tools

You may call one or more functions. Their signatures:
<tools>
{schemas}
</tools>

For each call write one JSON object between tags:
<tool_call>
{{"name": <function-name>, "arguments": <object>}}
</tool_call>"""

ToolStyle = Literal["template", "prompt", "unreadable"]


class HFTemplateRenderer:
    """Renders with ``tokenizer.apply_chat_template``.

    ``stop_token_ids`` default to the tokenizer's EOS. The token with which the template ends an assistant's turn
    comes first in any case: base models with ChatML have another EOS. Raises ValueError for a template without
    such a token, and for one that refuses an ordinary dialogue.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_token_ids: Sequence[int] | None = None,
        retention: Retention = "cycle",
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"the tokenizer of '{tokenizer.name_or_path}' has no chat template; use an instruct model, "
                "or put a chat_template.jinja next to tokenizer.json"
            )
        if not isinstance(tokenizer.eos_token_id, int):
            raise ValueError(f"the tokenizer of '{tokenizer.name_or_path}' has no eos_token; set one")
        self.tokenizer = tokenizer
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        self._control = ControlText(added, self._encode_piece, self._decode)
        try:
            self._end_id, self._end_text, self._tail = self._turn_end()
            self._rules = TemplateRules.find(
                lambda turns: self._apply(
                    turns, tools=[], generate=turns[-1]["role"] != "assistant", thinking=False
                ).replace(EMPTY, "")
            )
        except TemplateError as error:
            raise ValueError(
                f"the chat template of '{tokenizer.name_or_path}' refuses a dialogue of user and assistant: {error}; "
                "use another chat_template.jinja"
            ) from error
        self.stop_token_ids = tuple(dict.fromkeys([self._end_id, *(stop_token_ids or (tokenizer.eos_token_id,))]))
        self._opens: dict[bool, bool] = {}
        self.retention = retention
        if retention == "keep" and self._keeps is None:
            raise ValueError(
                f"rollout.retention=keep: the chat template of '{tokenizer.name_or_path}' takes the reasoning before "
                "the last user message out; use cycle or drop, or a template that keeps it"
            )

    @classmethod
    def load(cls, directory: str | Path, retention: Retention = "cycle") -> HFTemplateRenderer:
        """Tokenizer and template of a model's directory; stop tokens also from generation_config.json.

        Raises ValueError for a tokenizer or a template that does not do, OSError where there is none.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(directory))
        stops = [tokenizer.eos_token_id]
        generation = Path(directory) / "generation_config.json"
        if generation.is_file():
            ids = json.loads(generation.read_text()).get("eos_token_id")
            stops += ids if isinstance(ids, list) else [ids]
        return cls(tokenizer, [i for i in dict.fromkeys(stops) if i is not None], retention)

    # -- messages to tokens ------------------------------------------------------------------

    def render(self, messages: Sequence[Message], *, thinking: bool, add_bos: bool = True) -> list[int]:
        """The whole prompt, with the template's opening of the assistant's turn where it is due."""
        text = self._text(messages, thinking)
        bos = self.tokenizer.bos_token
        return self._encode(text if add_bos or not isinstance(bos, str) else text.removeprefix(bos))

    def render_after(
        self, messages_before: Sequence[Message], new: Sequence[Message], *, thinking: bool
    ) -> list[int] | None:
        """Tokens for ``new`` after the stop token of ``messages_before``; None if the text before changes.

        Many templates write a newline after the stop token: it was not sampled, so it comes here. Some write an
        empty thinking block in the newest message only (Qwen3): that it goes is no change of the text before. What
        stands in the stream stays there, with or without the block.
        """
        last = messages_before[-1]
        if self.retention == "drop" and thinking and last.role == "assistant" and last.reasoning:
            return None  # also where the template never showed it: the token stream has it
        before = self._text(messages_before, thinking)
        after = self._text([*messages_before, *new], thinking)
        if last.role == "assistant":
            before = self._until_stop(before)
        if not after.startswith(before) and last.role == "assistant" and not last.reasoning:
            before = _without_last_empty_thinking(before)
        return self._encode(after[len(before) :]) if after.startswith(before) else None

    def end_thinking_tokens(self, tokens: list[int], *, thinking: bool) -> list[int]:
        """``</think>`` on a line of its own, if the response opened its reasoning (or the template did) and not closed
        it."""
        text = self._decode(tokens)
        inside = (THINK in text or self._opens_reasoning(thinking)) and END_THINK not in text
        return self._encode(f"\n{END_THINK}\n\n") if inside else []

    def close_tokens(self, tokens: list[int], *, thinking: bool) -> list[int]:
        """The end of the reasoning if it is still open, then the token that ends a turn."""
        return [*self.end_thinking_tokens(tokens, thinking=thinking), self._end_id]

    # -- tokens to a message -----------------------------------------------------------------

    def parse(self, tokens: list[int], *, thinking: bool, ended: bool) -> Message:
        """The assistant message in sampled ``tokens``; what is malformed sets ``parse_error``."""
        body = tokens[:-1] if tokens and tokens[-1] in self.stop_token_ids else tokens
        text = self._decode(body)
        error = None if ended else cut_off_error(len(tokens))
        reasoning: str | None = None
        if text.lstrip().startswith(THINK) or self._opens_reasoning(thinking):
            head, closed, tail = text.partition(END_THINK)
            reasoning, text = head.lstrip().removeprefix(THINK).strip("\n"), tail.lstrip("\n")
            if not closed:
                error = error or f"the reasoning is not closed by {END_THINK}"
        if error is None:
            try:
                content, calls = parse_hermes(text)
                return Message("assistant", content, reasoning=reasoning, tool_calls=calls)
            except ValueError as wrong:
                error = str(wrong)
        return Message("assistant", text, reasoning=reasoning, parse_error=error)

    def split(self, tokens: list[int], *, thinking: bool, sampled: Sequence[bool] | None = None) -> Split:
        """Tokens by kind (see Renderer); whether there is thinking is read as ``parse`` reads it."""
        thinks = self._opens_reasoning(thinking) or self._decode(tokens).lstrip().startswith(THINK)
        return split_response(
            tokens,
            self._decode,
            stop_token_ids=self.stop_token_ids,
            end_think=END_THINK if thinks else None,
            calls=(CALL, END_CALL),
            sampled=sampled,
        )

    # -- the template ------------------------------------------------------------------------

    @cached_property
    def tool_style(self) -> ToolStyle:
        """How this template deals with tools (see the module's docstring)."""
        name, found = "probe_tool_name", "probe_result"
        schema = {"name": name, "description": "Probe.", "parameters": {"type": "object", "properties": {}}}
        call = ToolCall(name, {"x": 1})

        def shown(*messages: Message) -> str:
            """The text of a dialogue with the tool; empty if the template refuses it."""
            turns = self._rules.fit([_as_dict(m) for m in messages])
            try:
                return self._apply(turns, tools=[schema], generate=messages[-1].role != "assistant", thinking=False)
            except TemplateError:
                return ""

        begin = (Message("user", "Hi"), Message("assistant", tool_calls=(call,)))
        said = shown(*begin)
        if name not in shown(begin[0]):
            return "prompt"
        if said and found not in shown(*begin, Message("tool", found), Message("user", "And?")):
            return "prompt"
        # the last occurrence: some templates show the markup in their instructions as well
        start, end = said.rfind(CALL), said.rfind(END_CALL)
        try:
            read = parse_hermes(said[start : end + len(END_CALL)])[1] if 0 <= start < end else ()
        except ValueError:
            read = ()
        return "template" if read == (call,) else "unreadable"

    @cached_property
    def _keeps(self) -> Literal["reasoning", "content"] | None:
        """In which field this template shows the reasoning of turns before the last user message, if in any."""
        probe = "probe_reasoning"
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant"}, {"role": "user", "content": "And?"}]
        ways: tuple[tuple[Literal["reasoning", "content"], dict[str, str]], ...] = (
            ("reasoning", {"content": "Yes.", "reasoning_content": probe}),
            ("content", {"content": _with_reasoning(probe, "Yes.")}),
        )
        for way, fields in ways:
            turns[1] = {"role": "assistant", **fields}
            if probe in self._apply(turns, tools=[], generate=True, thinking=True):
                return way
        return None

    def _retained(self, messages: Sequence[Message], thinking: bool) -> Sequence[Message]:
        """The messages with as much reasoning as the template is to see."""
        if not thinking or self.retention == "cycle":
            return messages
        if self.retention == "drop":
            return [replace(m, reasoning=None) for m in messages[:-1]] + [messages[-1]]
        if self._keeps == "reasoning":
            return messages
        return [
            replace(m, content=_with_reasoning(m.reasoning, m.content), reasoning=None)
            if m.role == "assistant" and m.reasoning
            else m
            for m in messages
        ]

    def _text(self, messages: Sequence[Message], thinking: bool) -> str:
        """The dialogue as the template writes it, marked (``rl.chat.control_text``)."""
        messages = self._retained([self._control.mark(message) for message in messages], thinking)
        tools = [tool for message in messages for tool in message.tools]
        uses_tools = bool(tools) or any(m.role == "tool" or m.tool_calls for m in messages)
        generate = messages[-1].role != "assistant"
        for index, message in enumerate(messages):
            if message.role == "developer":
                raise RenderError(f"messages[{index}]: chat templates know no developer role; use system")
        if uses_tools and self.tool_style == "unreadable":
            raise RenderError(
                f"the chat template of '{self.tokenizer.name_or_path}' writes tool calls in a markup other "
                f"than {CALL}; use a model with Hermes-style calls, or an environment without tools"
            )
        if uses_tools and self.tool_style == "prompt":
            raw, tools = _tools_as_prompt(messages), []
        else:
            raw = [_as_dict(m) for m in messages]
        try:
            text = self._apply(self._rules.fit(raw), tools=tools, generate=generate, thinking=thinking)
        except TemplateError as error:
            raise RenderError(
                f"the chat template of '{self.tokenizer.name_or_path}' refuses the messages "
                f"{', '.join(m.role for m in messages)}: {error}"
            ) from error
        return text.replace(EMPTY, "")

    def _apply(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]],
        generate: bool,
        thinking: bool,
    ) -> str:
        text = self.tokenizer.apply_chat_template(
            list(messages),
            tools=[{"type": "function", "function": dict(tool)} for tool in tools] or None,
            add_generation_prompt=generate,
            tokenize=False,
            enable_thinking=thinking,
        )
        assert isinstance(text, str)
        return text

    def _opens_reasoning(self, thinking: bool) -> bool:
        """Whether the template itself writes the opening ``<think>``, so that sampling starts inside."""
        if thinking not in self._opens:
            text = self._apply([{"role": "user", "content": "Hi"}], tools=[], generate=True, thinking=thinking)
            self._opens[thinking] = text.rstrip().endswith(THINK)
        return self._opens[thinking]

    def _turn_end(self) -> tuple[int, str, str]:
        """The token right behind an assistant's content, its text, and all that the template writes there."""
        probe = "probe_answer"
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": probe}]
        tail = self._apply(turns, tools=[], generate=False, thinking=False).rpartition(probe)[2]
        first = self._encode(tail.lstrip())[:1]
        known = {self.tokenizer.eos_token_id, *self.tokenizer.added_tokens_decoder}
        end = self._decode(first)
        if not first or first[0] not in known or not tail.lstrip().startswith(end):
            raise ValueError(
                f"the chat template of '{self.tokenizer.name_or_path}' ends an assistant's turn with {tail[:40]!r}, "
                "which does not begin with a token of its own (like <|im_end|>), so sampling would not stop there; "
                "let the template write such a token of the tokenizer behind the content"
            )
        return first[0], end, tail

    def _until_stop(self, text: str) -> str:
        """``text``, which ends with an assistant's turn, without what stands behind the token that ends it."""
        if text.endswith(self._tail):
            return text[: len(text) - len(self._tail) + self._tail.index(self._end_text) + len(self._end_text)]
        head, found, _ = text.rpartition(self._end_text)
        return head + found if found else text

    def _encode(self, text: str) -> list[int]:
        return self._control.encode(text)

    def _encode_piece(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _decode(self, tokens: list[int]) -> str:
        text = self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _without_last_empty_thinking(text: str) -> str:
    begin = text.rfind(THINK)
    block = _EMPTY_THINKING.match(text, begin) if begin >= 0 else None
    return text if block is None else text[:begin] + text[block.end() :]


def _with_reasoning(reasoning: str, content: str) -> str:
    return f"{THINK}\n{reasoning}\n{END_THINK}\n\n{content}"


def _as_dict(message: Message) -> dict[str, Any]:
    """A message in the form that chat templates read."""
    raw: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        raw["reasoning_content"] = message.reasoning
    if message.tool_calls:
        raw["tool_calls"] = [
            {"type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
            for c in message.tool_calls
        ]
    return raw


def _tools_as_prompt(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The dialogue for a template without tools: schemas in the system message, results as user turns."""
    schemas = [json.dumps(tool, ensure_ascii=False) for m in messages for tool in m.tools]
    described = _TOOLS_PROMPT.format(schemas="\n".join(schemas)) if schemas else ""
    result: list[dict[str, Any]] = []
    previous = ""
    for message in messages:
        if message.role == "tool":
            response = f"<tool_response>\n{message.content}\n</tool_response>"
            if previous == "tool":  # results of one turn share one user turn
                result[-1]["content"] += f"\n{response}"
            else:
                result.append({"role": "user", "content": response})
        else:
            raw = _as_dict(replace(message, tool_calls=()))
            written = "\n".join(_write_call(call) for call in message.tool_calls)
            raw["content"] = "\n".join(part for part in (message.content, written) if part)
            result.append(raw)
        previous = message.role
    if described:
        if result[0]["role"] == "system":
            result[0]["content"] = f"{result[0]['content']}\n\n{described}".strip()
        else:
            result.insert(0, {"role": "system", "content": described})
    return result


def _write_call(call: ToolCall) -> str:
    body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return f"{CALL}\n{body}\n{END_CALL}"
