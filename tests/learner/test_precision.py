"""Masters are float32 whatever is stored or computed in; bfloat16 computing learns what float32 does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rl.learner.actor import PROBE, probe_tokens
from rl.learner.checkpoint import load_checkpoint, save_checkpoint
from rl.learner.config import LearnerConfig, ReplayConfig, SFTConfig
from rl.learner.learner import Learner
from rl.learner.precision import ComputeWeights, coarser, sync_tolerance
from rl.learner.sft import SFTTrainer
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.dtypes import cast_copy
from rl.policy.loading import build_policy, load_policy
from rl.types import Group, TokenStream

Groups = Callable[..., list[Group]]


def learner(policy: Policy, run_dir: Path, objective: ObjectiveConfig | None = None, **config: object) -> Learner:
    settings = LearnerConfig(**{"lr": 1e-6, "threads": 1, "max_tokens_per_microbatch": 64, **config})  # type: ignore[arg-type]
    return Learner(policy, settings, objective or ObjectiveConfig(), run_dir)


def flat(policy: Policy) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for _, p in policy.named_parameters() if p.requires_grad])


def llama(folder: Path, dtype: torch.dtype) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_small_updates_are_not_rounded_away(
    policy: Policy, make_groups: Groups, tmp_path: Path, stored: torch.dtype, compute: str
) -> None:
    """lr 1e-6: AdamW's first step moves every weight that has a gradient by about 1e-6, from any file."""
    groups = make_groups()
    policy.module.to(stored)
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    trainer = learner(loaded, tmp_path, compute_dtype=compute, skip_zero_advantage=False)
    before = flat(loaded)
    trainer.step(groups)
    moved = (flat(loaded) - before).abs()
    assert (moved > 0).float().mean() > 0.9
    assert float(moved.max()) < 1.2e-6
    assert all(p.dtype == torch.float32 for _, p in loaded.named_parameters())


def test_positions_and_router_bias_are_never_cast(policy: Policy, tmp_path: Path) -> None:
    buffers = {name: value.clone() for name, value in policy.module.named_buffers()}
    assert any("inv_freq" in name for name in buffers)
    assert any("e_score_correction_bias" in name for name in buffers)
    policy.module.to(torch.bfloat16)
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    copy = cast_copy(loaded, torch.bfloat16)
    for module in (loaded.module, copy.module):
        for name, value in module.named_buffers():
            assert value.dtype == torch.float32, name
            assert torch.equal(value, buffers[name]), name
    kept = {name for name, p in copy.named_parameters() if p.dtype == torch.float32}
    assert kept == {n for n, _ in loaded.named_parameters() if "mlp.gate." in n or "indexer.weights_proj" in n}


def test_gradients_are_added_in_float32(tmp_path: Path) -> None:
    """1 + 2^-9 + 2^-9 is 1 in bfloat16, added one by one. The tied head has one gradient, that of both uses."""
    masters = load_policy(llama(tmp_path, torch.float32))
    compute = ComputeWeights(masters, "bfloat16")
    assert compute.policy is not masters
    (name, weight), *_ = list(compute.policy.named_parameters())
    for value in (1.0, 2**-9, 2**-9):
        (weight[0, 0] * value).backward()
        assert weight.grad is None
    grad = masters.module.get_parameter(name).grad
    assert grad is not None
    assert grad.dtype == torch.float32
    assert float(grad[0, 0]) == 1.0 + 2**-8
    named = dict(compute.policy.named_parameters())
    assert "lm_head.weight" not in named
    assert compute.policy.module.lm_head.weight is named["model.embed_tokens.weight"]
    with torch.no_grad():
        masters.module.get_parameter(name)[0, 0] = 3.0
    compute.refresh()
    assert float(weight[0, 0].detach()) == 3.0


def test_bfloat16_gradient_is_the_float32_one_but_for_rounding(
    policy_config: dict, make_groups: Groups, tmp_path: Path
) -> None:
    groups, grads = make_groups(count=2), {}
    for dtype in ("float32", "bfloat16"):
        policy = build_policy(policy_config)
        trainer = learner(policy, tmp_path, compute_dtype=dtype, lr=1e-9)
        kept: list[torch.Tensor] = []

        def keep(loss: float, trainer: Learner = trainer, kept: list = kept) -> dict[str, float]:
            kept.append(torch.cat([p.grad.flatten() for p in trainer.optimizer.parameters]))
            return {"grad_norm": 1.0, "lr": 0.0, "applied": 1.0}

        trainer.optimizer.step = keep  # type: ignore[method-assign]
        trainer.step(groups)
        grads[dtype] = kept[0]
    difference = (grads["bfloat16"] - grads["float32"]).norm() / grads["float32"].norm()
    assert 1e-4 < float(difference) < 0.05
    assert float(torch.cosine_similarity(grads["bfloat16"], grads["float32"], dim=0)) > 0.999


def test_loss_curves_of_thirty_steps(policy_config: dict) -> None:
    """The same 30 steps of SFT: bfloat16 ends where float32 does, within the noise of rounding."""
    rng = np.random.default_rng(0)
    data = [TokenStream(rng.integers(0, 32, 24).astype(np.int32), np.arange(24) > 0) for _ in range(8)]
    curves = {}
    for dtype in ("float32", "bfloat16"):
        trainer = SFTTrainer(
            build_policy(policy_config), SFTConfig(lr=3e-3, schedule="constant", warmup_steps=0, compute_dtype=dtype)
        )
        curves[dtype] = np.array([trainer.step(data)["sft/loss"] for _ in range(30)])
    assert curves["float32"][-1] < 0.6 * curves["float32"][0]
    assert np.abs(curves["bfloat16"] - curves["float32"]).max() < 0.05


def test_reference_rounds_as_the_policy_does(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    settings = LearnerConfig(lr=1e-6, threads=1, compute_dtype="bfloat16")
    live = ReplayConfig(routing="off")  # the reference routes live, so here the policy does too
    trainer = Learner(policy, settings, ObjectiveConfig(kl_coef=0.1), tmp_path, replay=live)
    assert trainer.step(make_groups())["loss/kl"] == pytest.approx(0.0, abs=1e-9)


def test_what_is_published_is_what_computes(
    policy: Policy, policy_config: dict, make_groups: Groups, tmp_path: Path
) -> None:
    trainer = learner(policy, tmp_path, compute_dtype="bfloat16", lr=1e-3)
    trainer.step(make_groups())
    for name, value in trainer.weights().items():
        master = policy.module.state_dict()[name]
        sent = torch.as_tensor(value)
        assert torch.equal(sent.float(), master if sent.dtype == torch.float32 else master.bfloat16().float()), name
    save_checkpoint(tmp_path / "checkpoints", trainer, 1)
    other = learner(build_policy({**policy_config, "seed": 5}), tmp_path, compute_dtype="bfloat16", lr=1e-3)
    load_checkpoint(tmp_path / "checkpoints" / "step_000001", other)
    groups = make_groups(version=1, seed=1)
    first, second = trainer.step(groups), other.step(groups)
    assert first["learner/grad_norm"] == second["learner/grad_norm"]
    assert torch.equal(flat(policy), flat(other.policy))


def test_masters_must_be_float32(policy: Policy) -> None:
    policy.module.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"must be float32: model.embed_tokens.weight is not"):
        ComputeWeights(policy, "bfloat16")


def test_sync_tolerance_by_hand() -> None:
    """bfloat16: 32 x noise + 8 x 2^-23 x |log-prob|; float32: eps is 2^-16 times bfloat16's, the factor 1024."""
    logprobs = torch.tensor([-1.0, -16.0])
    result = 8 * 2**-23 * 16
    assert sync_tolerance(0.25, logprobs, "bfloat16") == pytest.approx(8.0 + result)
    assert sync_tolerance(0.25, logprobs, "float32") == pytest.approx(1024 * 2**-16 * 0.25 + result)
    assert coarser("float32", "bfloat16") == coarser("bfloat16", "float16") == "bfloat16"


def test_tolerance_follows_the_policy(policy: Policy, tmp_path: Path) -> None:
    """It grows with the logits, with the engine's dtype, and is the same with a copy that computes in float32."""
    tokens = np.arange(30) % 32
    exact = learner(policy, tmp_path)
    small = exact.probe(tokens).tolerance
    coarse = exact.probe(tokens, engine_dtype="bfloat16").tolerance
    assert coarse > 1000 * small > 0
    rounded = learner(policy, tmp_path, compute_dtype="bfloat16")
    assert rounded.probe(tokens).tolerance == pytest.approx(coarse, rel=1e-3)
    with torch.no_grad():
        policy.module.lm_head.weight.mul_(30)
    assert exact.probe(tokens).tolerance > 10 * small


def test_the_probe_is_longer_than_what_the_indexer_keeps(tmp_path: Path) -> None:
    for topk, longest, expected in ((32, 1023, PROBE), (2048, 8191, 2048 + PROBE // 2), (2048, 1023, 1023)):
        (tmp_path / "config.json").write_text(f'{{"vocab_size": 50, "index_topk": {topk}}}')
        tokens = probe_tokens(tmp_path, 0, longest)
        assert len(tokens) == expected
        assert max(tokens) < 50
