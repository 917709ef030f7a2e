"""A demonstrated message has the tokens that a policy would sample for it: up to the first where sampling stops."""

from __future__ import annotations

import pytest

from envs.types import Message
from rl.chat.hf_template import HFTemplateRenderer
from rl.chat.session import Session
from rl.data.demos import tokenise, written

# Phi-3's way: <|end|> ends a turn, and a text that is complete has the EOS behind it.
TWO_ENDS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
DIALOGUE = (Message("user", "one"), Message("assistant", "1"), Message("user", "two"), Message("assistant", "2"))


@pytest.fixture(scope="module")
def renderer() -> HFTemplateRenderer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(t, special=True) for t in ("<|user|>", "<|assistant|>", "<|end|>", "<|eot|>")])
    return HFTemplateRenderer(
        PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|eot|>", chat_template=TWO_ENDS)
    )


def test_a_message_ends_where_sampling_stops(renderer: HFTemplateRenderer) -> None:
    end, eos = renderer.tokenizer.convert_tokens_to_ids(["<|end|>", "<|eot|>"])
    assert renderer.stop_token_ids == (end, eos)
    assert renderer.render(DIALOGUE, thinking=False)[-1] == eos  # the template writes on behind the end of the turn
    said = written(renderer, DIALOGUE[:1], DIALOGUE[1], thinking=False)
    assert renderer.tokenizer.decode(said) == "1<|end|>"


def test_a_dialogue_is_one_stream_as_in_a_session(renderer: HFTemplateRenderer) -> None:
    (stream,) = tokenise(renderer, DIALOGUE, thinking=False)
    shown = renderer.tokenizer.decode(stream.tokens.tolist())
    assert shown == "<|user|>\none<|end|>\n<|assistant|>\n1<|end|>\n<|user|>\ntwo<|end|>\n<|assistant|>\n2<|end|>"
    assert renderer.tokenizer.decode(stream.tokens[stream.loss_mask].tolist()) == "1<|end|>2<|end|>"
    session = Session(renderer, DIALOGUE[:1], thinking=False, max_context=1000)
    for i in (1, 3):
        said = written(renderer, DIALOGUE[:i], DIALOGUE[i], thinking=False)
        session.append_sampled(said, [-1.0] * len(said), 0, ended=True)
        session.append_messages(DIALOGUE[i + 1 : i + 2])
    (segment,) = session.segments()
    assert (segment.tokens.tolist(), segment.loss_mask.tolist()) == (stream.tokens.tolist(), stream.loss_mask.tolist())


@pytest.mark.parametrize("inside", ["<|end|>", "<|eot|>"])
def test_a_text_that_spells_a_stop_token_stays_text(inside: str, renderer: HFTemplateRenderer) -> None:
    """It is written with other tokens, at which sampling does not stop. In a message that did not parse it is the token
    itself, and nobody can sample what stands behind it."""
    said = written(renderer, DIALOGUE[:1], Message("assistant", f"1{inside}2"), thinking=False)
    assert renderer.tokenizer.decode(said) == f"1{inside}2<|end|>"
    assert [token in renderer.stop_token_ids for token in said] == [False] * (len(said) - 1) + [True]
    raw = Message("assistant", f"1{inside}2", parse_error="cut")
    with pytest.raises(ValueError, match="the text of message 1 holds a token at which sampling stops"):
        written(renderer, DIALOGUE[:1], raw, thinking=False)
