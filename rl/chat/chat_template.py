"""A tokenizer with its chat template: dialogue to text, text to tokens in pieces, tokens to text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.chat.control_text import ControlText
from rl.chat.template_rules import EMPTY, Raw

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplate:
    """Raises ValueError for a tokenizer without a template or without an EOS."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.name = f"'{tokenizer.name_or_path}'"
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"the tokenizer of {self.name} has no chat template; use an instruct model, "
                "or put a chat_template.jinja next to tokenizer.json"
            )
        if not isinstance(tokenizer.eos_token_id, int):
            raise ValueError(f"the tokenizer of {self.name} has no eos_token; set one")
        self.eos: int = tokenizer.eos_token_id
        added = tokenizer.added_tokens_decoder
        self.special = [token.content for token in added.values() if token.special]
        # tokens that are themselves wherever they are spelled
        self.known = frozenset({self.eos, *added})
        self.control = ControlText([t.content for t in added.values()], self._encode_piece, self.decode, self.special)

    @property
    def bos(self) -> str:
        """The token that begins a text; "" where there is none."""
        bos = self.tokenizer.bos_token
        return bos if isinstance(bos, str) else ""

    def apply(
        self,
        messages: Sequence[Raw],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        generate: bool | None = None,
        thinking: bool = False,
    ) -> str:
        """The text. ``generate``: open the assistant's turn at the end (None: where it is due). Raises TemplateError
        for what the template refuses."""
        text = self.tokenizer.apply_chat_template(
            list(messages),
            tools=[{"type": "function", "function": dict(tool)} for tool in tools] or None,
            add_generation_prompt=messages[-1]["role"] != "assistant" if generate is None else generate,
            tokenize=False,
            enable_thinking=thinking,
        )
        assert isinstance(text, str)
        return text.replace(EMPTY, "")

    def encode(self, text: str, behind: int | None = None) -> list[int]:
        """Tokens of a text with marks (``rl.chat.control_text``).

        ``behind``: the token that stands before it. Many tokenizers write a space at the beginning of every text, or
        drop the space behind a token; encoded behind that token the text becomes what it is in the whole. Raises
        ValueError when that token is not read there.
        """
        if behind is None:
            return self.control.encode(text)
        ids = self.control.encode(self.decode([behind]) + text)
        return ids[ids.index(behind) + 1 :]

    def decode(self, tokens: list[int]) -> str:
        """Text of tokens, special ones kept."""
        text = self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _encode_piece(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def open_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's directory; a class that the directory brings as code is never run. Raises ValueError
    for one that does not do, OSError where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    except ValueError as error:
        file = directory / "tokenizer_config.json"
        stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if "auto_map" not in stored:
            raise
        raise ValueError(
            f"{stored.get('tokenizer_class')} is code of its own (auto_map in tokenizer_config.json), which is not run"
        ) from error
    return tokenizer


def stop_tokens(directory: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """EOS of ``tokenizer`` and of the directory's generation_config.json. Raises ValueError for what is no token."""
    stops: list[Any] = [tokenizer.eos_token_id]
    file = directory / "generation_config.json"
    if file.is_file():
        ids = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        stops += ids if isinstance(ids, list) else [ids]
    stops = [stop for stop in dict.fromkeys(stops) if stop is not None]
    known = set(tokenizer.get_vocab().values())
    if wrong := [stop for stop in stops if stop not in known]:
        raise ValueError(f"eos_token_id={wrong[0]!r} in {file} is no token of the tokenizer")
    return stops
