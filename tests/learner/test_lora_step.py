"""The learner with an adapter: only it moves, the base is the reference, little is sent, little is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rl.learner.checkpoint import check_adapter, load_checkpoint, save_checkpoint
from rl.learner.config import LearnerConfig, LoraConfig
from rl.learner.forward import packed_scores
from rl.learner.learner import Learner
from rl.learner.packing import MicroBatch
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.loading import build_policy, load_policy
from rl.policy.lora import merge
from rl.types import Group

Groups = Callable[..., list[Group]]


def learner(policy: Policy, folder: Path, objective: ObjectiveConfig | None = None, **config: object) -> Learner:
    lora = LoraConfig(rank=4, alpha=8)
    settings = LearnerConfig(**{"lr": 1e-2, "threads": 1, "max_tokens_per_microbatch": 64, "lora": lora, **config})  # type: ignore[arg-type]
    return Learner(policy, settings, objective or ObjectiveConfig(), folder)


def packed(trainer: Learner, groups: list[Group]) -> list[MicroBatch]:
    batch = trainer.begin()
    return [one.collate() for one in trainer._pack(groups, batch.minibatches[0], batch)]


def tensors(named: dict) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value) for name, value in named.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_adapter_learns_and_the_base_stays(
    policy: Policy, policy_config: dict, make_groups: Groups, tmp_path: Path, dtype: str
) -> None:
    groups = make_groups()
    trainer = learner(policy, tmp_path, compute_dtype=dtype, skip_zero_advantage=False)
    before, start = tensors(trainer.base_weights()), tensors(trainer.weights())
    assert all(bool((value == 0).all()) for name, value in start.items() if name.endswith(".lora_B"))
    metrics = trainer.step(groups)
    if dtype == "float32":  # in bfloat16 the sampler of these groups was another policy
        assert metrics["mismatch/max"] < 1e-5
    after, now = tensors(trainer.base_weights()), tensors(trainer.weights())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    moved = [name for name, value in now.items() if name.endswith(".lora_B") and bool((value != 0).any())]
    assert len(moved) == sum(name.endswith(".lora_B") for name in now)
    # What an engine adds up is what the learner computes.
    plain = build_policy(policy_config)
    plain.module.load_state_dict(merge(after, now))
    tokens = groups[0].trajectories[0].segments[0].tokens
    with torch.no_grad():
        ids = torch.from_numpy(tokens).long()
        wanted = plain.packed_logits(ids, [0, len(ids)])[:-1].log_softmax(-1).gather(1, ids[1:, None]).squeeze(1)
    scores = trainer.probe(tokens, engine_dtype=dtype)
    assert float((torch.from_numpy(scores.logprobs) - wanted).abs().max()) < scores.tolerance


def test_frozen_weights_have_no_float32_copy_in_bfloat16(policy: Policy, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path, compute_dtype="bfloat16")
    masters, computing = dict(trainer.policy.named_parameters()), dict(trainer.compute.policy.named_parameters())
    for name, value in masters.items():
        adapter = ".lora_" in name
        assert value.requires_grad == adapter
        kept = any(part in name for part in (".mlp.gate.", "indexer.weights_proj"))
        assert value.dtype == (torch.float32 if adapter or kept else torch.bfloat16), name
        assert (computing[name] is value) == (not adapter), name
    moments = trainer.optimizer.adamw.param_groups
    assert sum(len(group["params"]) for group in moments) == sum(".lora_" in name for name in masters)


def test_reference_is_the_policy_without_its_adapter(
    policy: Policy, policy_config: dict, make_groups: Groups, tmp_path: Path
) -> None:
    """KL 0 at first, and after a step that to the very policy it began from, from a second model."""
    groups, objective = make_groups(), ObjectiveConfig(kl_coef=0.1)
    trainer = learner(policy, tmp_path, objective)
    assert trainer.reference is not None
    assert not trainer.reference.own
    first = trainer.step(groups)
    assert first["loss/kl"] == pytest.approx(0.0, abs=1e-6)
    second = trainer.step(groups)
    assert second["loss/kl"] > 1e-4
    # The same two steps beside a whole model as reference.
    other = learner(build_policy(policy_config), tmp_path, objective)
    whole = build_policy(policy_config)
    batches = packed(other, groups)
    for batch in batches:
        with torch.no_grad():
            wanted = packed_scores(whole, batch).logprobs_N
        found = trainer._reference_logprobs(batch)
        assert found is not None
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_a_given_reference_counts_with_an_adapter_too(
    policy: Policy, policy_config: dict, make_groups: Groups, tmp_path: Path
) -> None:
    """pi_ref is the policy that was given, not the base without its adapter; it stays as it is."""
    other, given = (build_policy({**policy_config, "seed": 5}) for _ in range(2))
    settings = LearnerConfig(lr=1e-2, threads=1, max_tokens_per_microbatch=64, lora=LoraConfig(rank=4, alpha=8))
    trainer = Learner(policy, settings, ObjectiveConfig(kl_coef=0.1), tmp_path, reference=given)
    groups = make_groups()
    assert trainer.step(groups)["loss/kl"] > 1e-3  # the base is another policy
    for batch in packed(trainer, groups):
        with torch.no_grad():
            wanted = packed_scores(other, batch).logprobs_N
        found = trainer._reference_logprobs(batch)
        assert found is not None
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_a_checkpoint_holds_the_adapter_and_resumes_bitwise(
    policy: Policy, policy_config: dict, make_groups: Groups, tmp_path: Path
) -> None:
    steps = [make_groups(count=3, version=v, seed=v) for v in range(4)]
    straight = learner(policy, tmp_path, minibatches=2)
    for groups in steps[:2]:
        straight.step(groups)
    path = save_checkpoint(tmp_path / "checkpoints", straight, 2)
    names = {file.name for file in (path / "policy").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names
    assert "model.safetensors" not in names
    for groups in steps[2:]:
        straight.step(groups)
    resumed = learner(build_policy(policy_config), tmp_path, minibatches=2)
    load_checkpoint(path, resumed)
    for groups in steps[2:]:
        resumed.step(groups)
    wanted, found = tensors(straight.weights()), tensors(resumed.weights())
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    full = Learner(build_policy(policy_config), LearnerConfig(threads=1), ObjectiveConfig(), tmp_path)
    with pytest.raises(ValueError, match="holds a LoRA adapter alone"):
        load_checkpoint(path, full)
    check_adapter(path, LoraConfig(rank=4, alpha=8))
    for lora, said in ((LoraConfig(rank=8, alpha=8), "rank=8: .* with 4"), (LoraConfig(rank=4), "alpha=32: .* with 8")):
        with pytest.raises(ValueError, match=rf"learner\.lora\.{said}; set it back"):
            check_adapter(path, lora)
    with pytest.raises(ValueError, match="rank=0: checkpoint step_000002 was written with 4"):
        check_adapter(path, LoraConfig())
    # Bytes: what is sent in a sync, and what is stored, beside those of the whole policy.
    stored = sum(file.stat().st_size for file in path.rglob("*"))
    full.step(steps[0])
    whole = save_checkpoint(tmp_path / "whole", full, 1)
    sent = sum(value.nbytes for value in straight.weights().values())
    all_of_it = sum(value.nbytes for value in full.weights().values())
    assert sent < 0.5 * all_of_it
    assert stored < sum(file.stat().st_size for file in whole.rglob("*"))


def test_merged_policy_loads_as_a_plain_one(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path, skip_zero_advantage=False)
    trainer.step(make_groups())
    trainer.compute.policy.save(tmp_path / "policy")
    plain = load_policy(tmp_path / "policy")
    assert not any("lora" in name or "base_layer" in name for name in plain.weights())
    ids = torch.arange(30) % 32
    with torch.no_grad():
        torch.testing.assert_close(
            plain.packed_logits(ids, [0, 30]), trainer.policy.packed_logits(ids, [0, 30]), atol=1e-5, rtol=0
        )


def test_what_does_not_go_together_is_refused(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank=0: nothing gets an adapter"):
        LoraConfig(modules=["q_proj"])
    with pytest.raises(ValueError, match="must name a module"):
        LoraConfig(rank=4, modules=[])
    with pytest.raises(ValueError, match="rank=1000: no weight of this policy has a rank above"):
        learner(policy, tmp_path, lora=LoraConfig(rank=1000))
    with pytest.raises(ValueError, match=r"learner\.train_indexer=kl with learner\.lora\.rank=4"):
        LearnerConfig(lora=LoraConfig(rank=4), train_indexer="kl")
    with pytest.raises(ValueError, match="with an adapter pi_ref is the base policy"):
        learner(policy, tmp_path, ObjectiveConfig(kl_coef=0.1, ref_refresh_every=2))
