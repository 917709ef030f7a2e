"""The tokenizer of a policy: a thin wrapper around ``tokenizers``, and the trainer of the tiny one.

``ChatTokenizer`` reads any ``tokenizer.json`` (the real V3.2 one too); text is encoded as it is,
special tokens recognised, nothing added, and decoding keeps special tokens.

``train_tokenizer`` makes a byte-level BPE for a tiny policy. Its pre-tokenizer cuts so that the same
word is the same token wherever it occurs (digits one by one, each punctuation mark alone, a run of white
space as one piece), because a 1M-parameter policy must copy words out of JSON, tags and prose alike.
With ``protocol_tokens`` the fixed strings of the protocol are one token each: the TOOLS block then
costs 32 tokens before its schemas, where plain BPE needs about 400.
``decode(encode(x)) == x`` holds for every string.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from rl.chat import dsml
from rl.chat.v32_template import TEMPLATE

# ids 0, 1, … in this order; BOS 0 and EOS 1 as in V3.2
SPECIAL_TOKENS: tuple[str, ...] = (
    dsml.BOS,
    dsml.EOS,
    dsml.USER,
    dsml.ASSISTANT,
    dsml.THINK,
    dsml.END_THINK,
    dsml.DSML,
)

_WORD_PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s+"

# Pieces of calls, results and function schemas. Where a fixed string meets free text it ends at the text,
# so that the text's own tokens do not depend on it.
_CALL_TOKENS = (
    f"{dsml.CALLS_OPEN}\n",
    dsml.CALLS_CLOSE,
    dsml.INVOKE_OPEN,
    '">\n',
    dsml.INVOKE_CLOSE,
    f"{dsml.INVOKE_CLOSE}\n",
    dsml.PARAMETER_OPEN,
    '" string="true">',
    '" string="false">',
    dsml.PARAMETER_CLOSE,
    f"{dsml.PARAMETER_CLOSE}\n",
    "\n\n<function_results>",
    "\n<result>",
    "</result>",
    "\n</function_results>\n\n",
)
_SCHEMA_TOKENS = (
    "<functions>\n",
    "\n</functions>\n",
    '{"name": "',
    '", "description": "',
    '", "parameters": {"type": "object", "properties": {',
    '", "parameters": {"type": "object", "properties": {"',
    '": {"type": "string"',
    '": {"type": "integer"',
    '": {"type": "number"',
    '": {"type": "boolean"',
    '": {"type": "array", "items": ',
    ', "description": "',
    '"}, "',
    '}, "',
    '"}}, "required": ["',
    '}}, "required": ["',
    '"]}}',
    '": "',
    '", "',
)


def protocol_strings() -> tuple[str, ...]:
    """Fixed strings of the V3.2 protocol, each worth one token: call tags, schema pieces, TOOLS text."""
    head, _, _ = dsml.tools_block([]).partition("<functions>\n")
    # Markup of the TOOLS text shares its tokens with real calls, so that the example looks like the
    # thing; what is left over between the tags are its paragraphs and placeholders.
    known = sorted((*SPECIAL_TOKENS, *_CALL_TOKENS), key=len, reverse=True)
    prose = re.compile("|".join(re.escape(token) for token in known) + r"|(?<=\.\.\.)\n")
    quoted = f'by writing a "{dsml.CALLS_OPEN}" block'  # markup inside a sentence: keep the sentence whole
    hidden = head.replace(quoted, "\0")
    pieces = [piece.replace("\0", quoted) for piece in prose.split(hidden)]
    return tuple(dict.fromkeys((*_CALL_TOKENS, *_SCHEMA_TOKENS, *(p for p in pieces if len(p) > 2))))


# Everything a policy directory holds for text, in this project's and in transformers' layouts.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def copy_tokenizer(source: str | Path, target: str | Path) -> None:
    """Copy the tokenizer and chat template of one policy directory into another."""
    for name in _TOKENIZER_FILES:
        if (Path(source) / name).is_file():
            shutil.copy2(Path(source) / name, Path(target) / name)


class ChatTokenizer:
    """Text to token ids and back. ``bos_id`` / ``eos_id`` are V3.2's unless the file names others."""

    def __init__(self, tokenizer: Tokenizer, *, bos: str = dsml.BOS, eos: str = dsml.EOS) -> None:
        self._tokenizer = tokenizer
        self.bos, self.eos = bos, eos
        self.bos_id, self.eos_id = self.token_id(bos), self.token_id(eos)

    @classmethod
    def load(cls, directory: str | Path) -> ChatTokenizer:
        """Read ``tokenizer.json`` of a policy's directory. Raises FileNotFoundError when it is not there."""
        path = Path(directory) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer.json in '{directory}': give a policy's directory")
        return cls(Tokenizer.from_file(str(path)))

    def save(self, directory: str | Path) -> None:
        """Write ``tokenizer.json``, the config that lets transformers and vLLM load it, and V3.2's chat template."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(directory / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos,
            "eos_token": self.eos,
            "pad_token": self.eos,
            "clean_up_tokenization_spaces": False,
        }
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False))
        (directory / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included: the least number of embedding rows."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def added_tokens(self) -> list[str]:
        """Strings that are one token wherever they stand: control tokens, markup, fixed texts of the protocol."""
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    def token_id(self, token: str) -> int:
        """The id of one token. Raises KeyError when the vocabulary has no such token."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(f"token '{token}' is not in the vocabulary ({self.vocab_size} tokens)")
        return found

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; special tokens in it are recognised, none is added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` for many texts at once (threads of the library; for building corpora)."""
        return [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ``ids``, special tokens kept; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Text of each token on its own, for people to read."""
        return [self.decode([i]) for i in ids]


def train_tokenizer(texts: Iterable[str], vocab_size: int, protocol_tokens: bool = True) -> ChatTokenizer:
    """Train a byte-level BPE of at most ``vocab_size`` ids on ``texts``.

    ids: special tokens first, then (if wanted) the protocol strings, the 256 bytes, the merges.
    Deterministic in (texts, vocab_size). Raises ValueError when ``vocab_size`` leaves no room.
    """
    protocol = protocol_strings() if protocol_tokens else ()
    fixed = [*SPECIAL_TOKENS, *protocol]
    if vocab_size < len(fixed) + 256:
        raise ValueError(f"vocab_size={vocab_size} is below the {len(fixed) + 256} fixed tokens; raise it")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=fixed,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(_free_text(texts, fixed), trainer)
    # A fresh tokenizer around the model: the trainer would have made every fixed string "special".
    # normalized=False puts all of them into one longest-match table, else the DSML marker would win
    # over the longer strings that contain it.
    tokenizer = Tokenizer(trained.model)
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in protocol])
    return ChatTokenizer(tokenizer)


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _free_text(texts: Iterable[str], fixed: Sequence[str]) -> Iterator[str]:
    """The texts without the fixed strings, so that no merge is spent on what is one token already."""
    cut = re.compile("|".join(re.escape(t) for t in sorted(fixed, key=len, reverse=True)))
    for text in texts:
        yield from (piece for piece in cut.split(text) if piece)
