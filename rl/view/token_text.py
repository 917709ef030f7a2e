"""The tokens of a rollout as a reader sees them: text, log-prob, policy version, and the advantage they were trained
with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rl.objective.advantage import group_advantages
from rl.run.paths import resolve
from rl.tracking.rundir import RunDir
from rl.view.run_list import NotThere

BROKEN = "\ufffd"  # what a tokenizer makes of a part of a character
PIECE = 4000  # tokens in one answer


@dataclass(frozen=True)
class TokenPiece:
    """Tokens ``start`` … of one segment, of ``length`` in all; the lists have one member per token."""

    segment: int
    segments: int
    start: int
    length: int
    ids: list[int]
    texts: list[str]
    logprobs: list[float | None]  # nats, of sampled tokens
    versions: list[int | None]  # of the policy that sampled the token


def token_piece(row: Mapping[str, Any], segment: int, start: int, tokenizer: Tokenizer | None) -> TokenPiece:
    """A piece of the row of a trajectories file. Raises NotThere when the run kept no tokens, or not that many."""
    segments: Sequence[Mapping[str, Any]] = row.get("segments") or ()
    if not segments:
        raise NotThere("this rollout was stored without tokens (tracking.save_tokens)")
    if not 0 <= segment < len(segments):
        raise NotThere(f"there is no segment {segment}: this rollout has {len(segments)}")
    tokens: list[int] = segments[segment]["tokens"]
    end = min(start + PIECE, len(tokens))
    if not 0 <= start <= len(tokens):
        raise NotThere(f"there is no token {start}: segment {segment} has {len(tokens)}")
    logprobs: list[float | None] = [None] * (end - start)
    versions: list[int | None] = [None] * (end - start)
    for span in segments[segment]["spans"]:
        for at in range(max(start, span["start"]), min(end, span["end"])):
            logprobs[at - start] = span["logprobs"][at - span["start"]]
            versions[at - start] = span["version"]
    if tokenizer is None:
        texts = [f"#{token} " for token in tokens[start:end]]
    else:  # with some around it, so that no character is cut
        first = max(0, start - 8)
        texts = token_texts(tokenizer, tokens[first : end + 8])[start - first : end - first]
    return TokenPiece(segment, len(segments), start, len(tokens), tokens[start:end], texts, logprobs, versions)


def token_texts(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """The text of every token where it stands; together they are the text of all.

    Tokens that are parts of one character have it at the last of them, and "" at the others.
    """
    alone = tokenizer.decode_batch([[token] for token in tokens], skip_special_tokens=False)
    pairs = tokenizer.decode_batch(
        [list(tokens[max(0, i - 1) : i + 1]) for i in range(len(tokens))], skip_special_tokens=False
    )
    texts = list(alone)
    for i in range(1, len(tokens)):  # a blank before a word may only show behind another token
        if pairs[i].startswith(alone[i - 1]) and BROKEN not in pairs[i]:
            texts[i] = pairs[i][len(alone[i - 1]) :]
    start = 0
    while start < len(tokens):
        end = start
        while end < len(tokens) and BROKEN in alone[end]:
            end += 1
        if end > start:
            texts[start:end] = _joined(tokenizer, tokens[start:end], alone[start:end])
        start = end + 1
    return texts


def _joined(tokenizer: Tokenizer, tokens: Sequence[int], alone: Sequence[str]) -> list[str]:
    """Texts of tokens that are all parts of characters: whole ones as soon as they are, ``alone`` where none come."""
    texts = [""] * len(tokens)
    start = 0
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(list(tokens[start:end]), skip_special_tokens=False)
        if BROKEN not in text:
            texts[end - 1], start = text, end
        elif end - start >= 4:  # a character has four bytes at most: the first token begins none
            texts[start], start = alone[start], start + 1
    texts[start:] = alone[start:]
    return texts


def advantages(heads: Sequence[tuple[float | None, str | None]], norm: str) -> list[float]:
    """Advantage of every rollout of a group from its (reward, failure kind), as the learner computes it."""
    valid = [reward is not None and failure is None for reward, failure in heads]
    return group_advantages([reward or 0.0 for reward, _ in heads], valid, norm)


def find_tokenizer(run: RunDir, config: Mapping[str, Any]) -> tuple[Tokenizer | None, str]:
    """The tokenizer of the run's policy, and where it lies; without one what was looked at.

    All policies of a run have the same: its last weights, its checkpoints, and the policy it began with.
    """
    policy, base = config.get("policy") or {}, config.get("base") or {}
    settings = [policy.get("path"), base.get("source"), config.get("path")]
    places = [run.path / "policy", run.path.parent]  # rl-eval writes to <run>/policy/eval
    places += [path / "policy" for path in sorted(run.checkpoints.glob("step_*"), reverse=True)[:1]]
    for setting in settings:
        if isinstance(setting, str) and setting != "scratch":
            try:
                places.append(resolve(setting))
            except ValueError:
                continue
    for place in places:
        file = place / "tokenizer.json"
        if file.is_file():
            return _opened(file, file.stat().st_mtime_ns), str(place)
    return None, ", ".join(str(place) for place in places)


@lru_cache(maxsize=8)
def _opened(file: Path, changed: int) -> Tokenizer:
    return Tokenizer.from_file(str(file))
