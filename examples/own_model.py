"""Your own model, your own rows, your own reward: from nothing to a trained policy, in an empty folder.

    python examples/own_model.py            # about two minutes on two cores

The model is a Llama of a million parameters with random weights, made here with a tokenizer of its own; in your case it
is a directory or a hub id. The task: say the last word.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import rl

WORDS = (
    "red",
    "blue",
    "green",
    "black",
    "gold",
    "iron",
    "wood",
    "salt",
    "wine",
    "fish",
    "bird",
    "moon",
    "star",
    "rain",
)
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_model(folder: Path, seed: int) -> Path:
    """A Llama with random weights and a word-level tokenizer with a chat template, in Hugging Face format."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    marks = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    words = Tokenizer(models.BPE(byte_fallback=False))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=marks,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    words.train_from_iterator([" ".join(WORDS)] * 10, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=512, tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_rows(seed: int) -> list[dict[str, Any]]:
    """100 rows: four words, and the last of them."""
    chosen = [random.Random(seed + i).sample(WORDS, 4) for i in range(100)]
    return [{"prompt": " ".join(words), "answer": words[-1]} for words in chosen]


def last_word(answer: str, row: dict[str, Any]) -> float:
    """The reward of one answer."""
    return float(answer.split() == [row["answer"]])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    run = rl.train(
        model=make_model(Path("tiny-llama"), options.seed),
        data=make_rows(options.seed),
        reward=last_word,
        experiment="my_model",
        steps=options.steps,
        prompts_per_step=16,
        seed=options.seed,
        coldstart={"enabled": True, "demos": 64, "epochs": 24, "tokens_per_step": 256},
        rollout={"max_tokens": 8, "max_context": 256},
        learner={"lr": 1e-3},
    )
    before, after = (run.summary[name]["overall"] for name in ("eval_before", "eval_after"))
    print(f"held-out reward {before:.2f} before, {after:.2f} after; policy in {run.policy_path}")


if __name__ == "__main__":
    main()
