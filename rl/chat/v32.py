"""DeepSeek-V3.2's chat format: messages to text and tokens, sampled tokens to a message.

Follows the official encoder (recipe: sections 4.1-4.6)::

    <BOS>system [TOOLS] <｜User｜>question<｜Assistant｜><think>
    reasoning</think>content [calls]<EOS>
    \\n\\n<function_results>\\n<result>…</result>\\n</function_results>\\n\\n<think>
    reasoning</think>answer<EOS>

Reasoning is kept inside a tool cycle and dropped when a new user message arrives; calls and results
always stay. That is retention ``cycle``; with ``drop`` only the message being written has its reasoning, with
``keep`` every message has. Chat mode (``thinking=False``) opens every assistant turn with ``</think>`` instead.

Where the official encoder has no answer, here is ours: after an assistant message that could not be
parsed, tool messages are rendered as function results (that is how the policy reads what it did wrong,
without losing its reasoning); a developer turn does not delete earlier developer turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.types import Message
from rl.chat import dsml
from rl.chat.control_text import ControlText
from rl.chat.renderer import RenderError, Retention, begun, cut_off_error
from rl.chat.split import Split, split_response
from rl.chat.tokenizer import ChatTokenizer

_CONTROL_TOKENS = (dsml.BOS, dsml.EOS, dsml.USER, dsml.ASSISTANT, dsml.THINK, dsml.END_THINK)


class V32Renderer:
    """The V3.2 renderer and parser over a tokenizer that has V3.2's special tokens."""

    def __init__(self, tokenizer: ChatTokenizer, retention: Retention = "cycle") -> None:
        self.tokenizer, self.retention = tokenizer, retention
        for token in (*_CONTROL_TOKENS, dsml.DSML):
            tokenizer.token_id(token)  # raises KeyError with the token's name
        self.stop_token_ids: tuple[int, ...] = (tokenizer.eos_id,)
        self._end_think_id = tokenizer.token_id(dsml.END_THINK)
        self._control = ControlText(tokenizer.added_tokens, tokenizer.encode, tokenizer.decode)

    @classmethod
    def load(cls, directory: str | Path, retention: Retention = "cycle") -> V32Renderer:
        """With the tokenizer of a policy directory."""
        return cls(ChatTokenizer.load(directory), retention)

    def render(self, messages: Sequence[Message], *, thinking: bool, add_bos: bool = True) -> list[int]:
        """Prompt tokens of a dialogue; see ``render_text``."""
        if (unfinished := begun(messages, thinking=thinking)) is not None:
            before = self.render(messages[:-1], thinking=thinking, add_bos=add_bos)
            return before + self.prefix_tokens(unfinished, thinking=thinking)
        marked = [self._control.mark(message) for message in messages]
        return self._control.encode(render_text(marked, thinking=thinking, add_bos=add_bos, retention=self.retention))

    def prefix_tokens(self, message: Message, *, thinking: bool) -> list[int]:
        """What was given of an answer: in thinking mode its reasoning, closed where there is content, then content."""
        return self._control.encode(_begun(self._control.mark(message), thinking))

    def render_after(
        self, messages_before: Sequence[Message], new: Sequence[Message], *, thinking: bool, stop: int | None = None
    ) -> list[int] | None:
        """Tokens to append for ``new``; None when it would change the text before it (see Renderer)."""
        marked = [self._control.mark(message) for message in (*messages_before, *new)]
        before = render_text(marked[: len(messages_before)], thinking=thinking, retention=self.retention)
        after = render_text(marked, thinking=thinking, retention=self.retention)
        return self._control.encode(after[len(before) :]) if after.startswith(before) else None

    def parse(
        self, tokens: list[int], *, thinking: bool, ended: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Message:
        """The assistant message in sampled ``tokens`` (the stop token included when ``ended``)."""
        body = tokens[:-1] if tokens and tokens[-1] in self.stop_token_ids else tokens
        error = None if ended else cut_off_error(len(tokens))
        return parse_text(self.tokenizer.decode(body), thinking=thinking, error=error)

    def stop_of(self, message: Message) -> int:
        """EOS, whatever the message is."""
        return self.tokenizer.eos_id

    def end_thinking_tokens(self, tokens: list[int], *, thinking: bool) -> list[int]:
        """``</think>`` if the response never left its reasoning."""
        return [self._end_think_id] if thinking and self._end_think_id not in tokens else []

    def split(self, tokens: list[int], *, thinking: bool, sampled: Sequence[bool] | None = None) -> Split:
        """Tokens by kind (see Renderer). In chat mode the prompt has closed the thinking already."""
        return split_response(
            tokens,
            self.tokenizer.decode,
            stop_token_ids=self.stop_token_ids,
            end_think=dsml.END_THINK if thinking else None,
            calls=(dsml.CALLS_OPEN, dsml.CALLS_CLOSE),
            sampled=sampled,
        )

    def close_tokens(self, tokens: list[int], *, thinking: bool) -> list[int]:
        """``</think>`` if the response never left its reasoning, then EOS."""
        return [*self.end_thinking_tokens(tokens, thinking=thinking), self.tokenizer.eos_id]


def render_text(
    messages: Sequence[Message], *, thinking: bool, add_bos: bool = True, retention: Retention = "cycle"
) -> str:
    """The text of a dialogue in V3.2's format. Raises RenderError for what the format cannot express."""
    begun(messages, thinking=thinking)
    last_user = max((i for i, m in enumerate(messages) if m.role in ("user", "developer")), default=-1)
    first_kept = _first_kept(messages, last_user, retention)
    text = [dsml.BOS if add_bos else ""]
    for index, message in enumerate(messages):
        # what opens the assistant's turn after this message: that turn's reasoning, or the end of none
        unanswered = retention == "keep" and index < last_user and messages[index + 1].role in ("user", "developer")
        opening = dsml.THINK if thinking and index + 1 >= first_kept and not unanswered else dsml.END_THINK
        match message.role:
            case "system":
                text.append(message.content)
                if message.tools:
                    text.append(f"\n\n{dsml.tools_block(message.tools)}")
                text.append(_response_format(message))
            case "user":
                _no_tools(index, message)
                text.append(f"{dsml.USER}{message.content}{dsml.ASSISTANT}{opening}")
            case "developer":
                text.append(f"{dsml.USER}{_developer(index, message)}{dsml.ASSISTANT}{opening}")
            case "assistant":
                keeps = thinking and index >= first_kept
                text.append(_assistant(index, message, keep_thinking=keeps, needed=index > last_user))
            case "tool":
                text.append(_tool(index, messages, opening))
            case _:
                raise RenderError(
                    f"messages[{index}]: unknown role '{message.role}'; use system, user, developer, assistant or tool"
                )
    return "".join(text)


def _first_kept(messages: Sequence[Message], last_user: int, retention: Retention) -> int:
    """From which message on assistants have their reasoning."""
    match retention:
        case "cycle":
            return last_user + 1
        case "keep":
            return 0
        case "drop":  # the message being written: the last one, or the one still to come
            return len(messages) - (messages[-1].role == "assistant") if messages else 0


def _no_tools(index: int, message: Message) -> None:
    if message.tools:
        raise RenderError(f"messages[{index}]: a {message.role} message has tools; put them on the system message")


def _response_format(message: Message) -> str:
    return "" if message.response_format is None else f"\n\n{dsml.response_format_block(message.response_format)}"


def _developer(index: int, message: Message) -> str:
    if not message.content:
        raise RenderError(f"messages[{index}]: a developer message needs content")
    tools = f"\n\n{dsml.tools_block(message.tools)}" if message.tools else ""
    return f"{tools}{_response_format(message)}\n\n# The user's message is: {message.content}"


def _begun(message: Message, thinking: bool) -> str:
    closes = thinking and (message.content or message.reasoning is None)
    return f"{message.reasoning or ''}{dsml.END_THINK if closes else ''}{message.content}"


def _assistant(index: int, message: Message, *, keep_thinking: bool, needed: bool) -> str:
    _no_tools(index, message)
    if message.prefix:
        return _begun(message, keep_thinking)
    reasoning = ""
    if keep_thinking:
        if needed and message.reasoning is None and not message.tool_calls and message.parse_error is None:
            raise RenderError(
                f"messages[{index}]: in thinking mode an assistant message after the last user message "
                'needs reasoning ("" will do) or tool calls; set reasoning, or render with thinking=False'
            )
        reasoning = f"{message.reasoning or ''}{dsml.END_THINK}"
    calls = f"\n\n{dsml.write_calls(message.tool_calls)}" if message.tool_calls else ""
    return f"{reasoning}{message.content}{calls}{dsml.EOS}"


def _tool(index: int, messages: Sequence[Message], opening: str) -> str:
    """One result. The batch opens with the first and closes when every call has its result."""
    caller = index - 1
    while caller >= 0 and messages[caller].role == "tool":
        caller -= 1
    if caller < 0 or messages[caller].role != "assistant":
        raise RenderError(f"messages[{index}]: a tool result needs an assistant message with calls before it")
    order = index - caller
    if messages[caller].parse_error is not None:
        # no calls to count: the batch is every tool message in a row
        last = index + 1 == len(messages) or messages[index + 1].role != "tool"
    else:
        calls = len(messages[caller].tool_calls)
        if order > calls:
            raise RenderError(
                f"messages[{index}]: tool result {order} for {calls} call(s) of messages[{caller}]; "
                "give one result for each call, in order"
            )
        last = order == calls
    text = "\n\n<function_results>" if order == 1 else ""
    text += f"\n<result>{messages[index].content}</result>"
    return text + (f"\n</function_results>\n\n{opening}" if last else "")


def parse_text(text: str, *, thinking: bool, error: str | None = None) -> Message:
    """The assistant message in ``text`` (what was sampled, without EOS), or one with ``parse_error``.

    ``error``: what is known to be wrong already (a response that was cut off). A message with a
    parse_error keeps the raw text as its content, so that it can be shown and rendered again.
    """
    reasoning: str | None = None
    content = text
    if thinking:
        head, closed, tail = text.partition(dsml.END_THINK)
        reasoning, content = head, tail
        if not closed:
            error = error or (
                f"the tool call stands inside the reasoning; write {dsml.END_THINK} before it"
                if dsml.CALLS_OPEN in head
                else f"the reasoning is not closed by {dsml.END_THINK}"
            )
    before, opened, _ = content.partition(dsml.CALLS_OPEN)
    # In a call's arguments they are text like any other, as in the official parser.
    error = error or _stray_token(reasoning or "", "the reasoning") or _stray_token(before, "the answer")
    if error is None and opened:
        try:
            calls = dsml.parse_calls(content[len(before) :])
        except dsml.DSMLError as wrong:
            error = str(wrong)
        else:
            return Message("assistant", before.removesuffix("\n\n"), reasoning=reasoning, tool_calls=calls)
    elif error is None and dsml.DSML in content:
        error = f"a call must stand between {dsml.CALLS_OPEN} and {dsml.CALLS_CLOSE}"
    return Message("assistant", content, reasoning=reasoning, parse_error=error)


def _stray_token(text: str, where: str) -> str | None:
    for token in _CONTROL_TOKENS:
        if token in text:
            return f"{token} stands inside {where}; it may not"
    return None
