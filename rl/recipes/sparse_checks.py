"""What `rl-adapt` refuses before a run folder exists: a configuration, checkpoint and data that do not fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rl.run.paths import policy_directory

if TYPE_CHECKING:
    from configs.schema import AdaptConfig


def check(cfg: AdaptConfig) -> None:
    """Refuse what cannot work before anything is trained."""
    from rl.policy.checkpoint_checks import check_spread
    from rl.policy.presets import PRESETS
    from rl.run.preflight import check_preset

    if cfg.policy.path is None:
        if cfg.data.source != "needles":
            raise ValueError("policy.path is missing: give a dense checkpoint, or use data.source=needles")
        check_preset(cfg.policy)
        config = PRESETS[cfg.policy.preset](cfg.data.needles.vocab_size, **cfg.policy.overrides)
    else:
        from rl.policy.supported import DSA_ARCHITECTURES, dsa_config

        directory = policy_directory("policy.path", cfg.policy.path)
        kind = json.loads((directory / "config.json").read_text()).get("model_type")
        if kind not in DSA_ARCHITECTURES:
            raise ValueError(
                f"policy.path={cfg.policy.path} is a {kind!r} model without DSA's indexer; give one with "
                f"model_type {' or '.join(DSA_ARCHITECTURES)}"
            )
        config = dsa_config(directory)
    check_spread(config.to_dict(), cfg.learner.expert_parallel)
    for name, stage in (("warmup", cfg.warmup), ("sparse", cfg.sparse)):
        if cfg.data.source == "text" and {*stage.lengths} - {cfg.data.length}:
            raise ValueError(
                f"{name}.lengths={stage.lengths}: a text is cut once, to data.length={cfg.data.length}; leave it []"
            )
    topk = cfg.index_topk or config.index_topk
    if cfg.data.length <= topk:
        raise ValueError(
            f"data.length={cfg.data.length} is not above index_topk={topk}: every token would be chosen and sparse "
            "attention would equal dense; use longer sequences or a smaller index_topk"
        )
    if cfg.data.length > config.max_position_embeddings:
        raise ValueError(
            f"data.length={cfg.data.length} is above the policy's max_position_embeddings="
            f"{config.max_position_embeddings}; use shorter sequences"
        )
    if cfg.data.source == "needles":
        check_lengths(cfg, config.max_position_embeddings)


def check_lengths(cfg: AdaptConfig, positions: int) -> None:
    """Refuse needle documents of any stage that have no room for their questions, or more than ``positions`` tokens."""
    given = {
        "warmup.lengths": cfg.warmup.lengths,
        "sparse.lengths": cfg.sparse.lengths,
        "data.length": [cfg.data.length],
    }
    if cfg.policy.path is None:
        given["dense.lengths"] = cfg.dense.lengths
    least, task = cfg.data.needles.min_length, cfg.data.needles
    for name, lengths in given.items():
        for length in lengths:
            if not least <= length <= positions:
                raise ValueError(
                    f"{name} has {length}: a needle document of facts={task.facts} and questions={task.questions} "
                    f"takes {least} tokens or more, and the policy has max_position_embeddings={positions}"
                )
