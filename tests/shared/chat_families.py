"""Families of models for tests: a chat template of each (``templates/``), and a tiny tokenizer of its kind."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerFast

from rl.chat.hf_template import HFTemplateRenderer
from rl.chat.renderer import Retention

Pieces = Literal["bytes", "spm", "spm_prefix", "spm_first"]
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
)
_MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
_MISTRAL += ("[TOOL_RESULTS]", "[/TOOL_RESULTS]")


@dataclass(frozen=True)
class Family:
    """``special``: control tokens; ``words``: added tokens that are not special; ``stops``: the stop tokens that are
    found, EOS and those of generation_config.json (``also``) included; ``lstrip``…: as in AddedToken."""

    template: str
    special: tuple[str, ...]
    eos: str
    stops: tuple[str, ...]
    bos: str | None = None
    words: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    pieces: Pieces = "bytes"
    rstrip: bool = False
    tools: str = "template"
    markup: str = "hermes"
    end: str = "<|im_end|>"  # of an answer
    call_end: str = "<|im_end|>"


_XML = ("<tool_call>", "</tool_call>", "<think>", "</think>")
FAMILIES = {
    "chatml": Family("chatml", _CHATML, "<|im_end|>", ("<|im_end|>",), tools="prompt"),
    "qwen25": Family("qwen25", _CHATML, "<|im_end|>", ("<|im_end|>", "<|endoftext|>"), words=_XML[:2],
                     also=("<|im_end|>", "<|endoftext|>")),
    "qwen3": Family("qwen3", _CHATML, "<|im_end|>", ("<|im_end|>", "<|endoftext|>"), words=_XML,
                    also=("<|im_end|>", "<|endoftext|>")),
    "llama31": Family("llama31", _LLAMA, "<|eot_id|>", ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"),
                      bos="<|begin_of_text|>", also=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
                      markup="llama", end="<|eot_id|>", call_end="<|eot_id|>"),
    "llama31_eom": Family("llama31_eom", _LLAMA, "<|end_of_text|>", ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
                          bos="<|begin_of_text|>", markup="llama", end="<|eot_id|>", call_end="<|eom_id|>"),
    "gemma": Family("gemma", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>",
                    ("<end_of_turn>", "<eos>"), bos="<bos>", pieces="spm", tools="prompt", end="<end_of_turn>",
                    call_end="<end_of_turn>"),
    "mistral": Family("mistral", _MISTRAL, "</s>", ("</s>",), bos="<s>", pieces="spm_prefix", markup="mistral",
                      end="</s>", call_end="</s>"),
    "mistral_first": Family("mistral", _MISTRAL, "</s>", ("</s>",), bos="<s>", pieces="spm_first", markup="mistral",
                            end="</s>", call_end="</s>"),
    "glm45": Family("glm45", ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>",
                              "<|observation|>"),
                    "<|endoftext|>", ("<|user|>", "<|observation|>", "<|endoftext|>"),
                    words=(*_XML, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
                    also=("<|endoftext|>", "<|user|>", "<|observation|>"), markup="glm", end="<|user|>",
                    call_end="<|observation|>"),
    "phi3": Family("phi3", ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|endoftext|>",
                   ("<|end|>", "<|endoftext|>"), pieces="spm_prefix", rstrip=True, tools="prompt", end="<|end|>",
                   call_end="<|end|>"),
}  # fmt: skip


def template_text(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def tokenizer_of(family: Family, template: str | None = None) -> PreTrainedTokenizerFast:
    """Bytes as GPT-2, Qwen and Llama 3 cut them, or characters as SentencePiece does: without a space before a text
    (Gemma), with one before every piece (Llama 2, Mistral, Phi-3), or before the first only (the same, converted
    newly)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    if family.pieces == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.decoder = decoders.ByteLevel()
    else:
        units = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *string.printable.replace(" ", "")]
        merges = [("▁", letter) for letter in string.ascii_lowercase]  # a space is lost in the word behind it
        units += ["".join(pair) for pair in merges]
        vocab = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
        inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        spaces = normalizers.Replace(" ", "▁")
        after = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if family.pieces == "spm_first":
            inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
        elif family.pieces == "spm_prefix":
            inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        else:
            inner.normalizer = spaces
        inner.decoder = decoders.Sequence(after if family.pieces == "spm" else [*after, decoders.Strip(" ", 1, 0)])
    inner.add_special_tokens(
        [AddedToken(t, special=True, normalized=False, rstrip=family.rstrip) for t in family.special]
    )
    inner.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.words])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=family.bos,
        eos_token=family.eos,
        name_or_path=family.template,
        chat_template=template or template_text(family.template),
    )


@cache
def renderer_of(name: str, retention: Retention = "cycle") -> HFTemplateRenderer:
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    stops = tokenizer.convert_tokens_to_ids([family.eos, *family.also])
    return HFTemplateRenderer(tokenizer, list(dict.fromkeys(stops)), retention)
