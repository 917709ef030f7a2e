"""Adapters: nothing changes at first, W' = W + alpha / r * B A everywhere, peft's files, and what is left alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from moe_families import FAMILIES, GLM5, write
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rl.policy.api import Policy
from rl.policy.dtypes import cast_copy
from rl.policy.hf import HFPolicy
from rl.policy.loading import build_policy, load_policy
from rl.policy.lora import LoraPolicy, adapter_modules, merge

TOKENS = torch.arange(80) * 7 % 60
BOUNDS = [0, 30, 80]
SMALL = {"num_hidden_layers": 3, "hidden_size": 64, "index_topk": 12}


def llama() -> Policy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return HFPolicy(LlamaForCausalLM(config))


@pytest.fixture(params=["tiny_dsa", "llama", *FAMILIES, *GLM5])
def policy(request: pytest.FixtureRequest, tmp_path: Path) -> Policy:
    if request.param == "tiny_dsa":
        return build_policy({"preset": "tiny_dsa", "vocab_size": 64, "overrides": SMALL})
    if request.param == "llama":
        return llama()
    return load_policy(write(request.param, tmp_path / "base"))


def scramble(policy: LoraPolicy) -> None:
    """B is no longer 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if ".lora_B" in name:
                value.normal_(std=0.05, generator=generator)


@torch.no_grad()
def logits(policy: Policy) -> Tensor:
    return policy.packed_logits(TOKENS, BOUNDS)


def test_update_is_b_times_a_in_every_form(policy: Policy, tmp_path: Path) -> None:
    base = copy.deepcopy(policy)
    before = logits(base)
    adapted = LoraPolicy(policy, 4, 8)
    assert torch.equal(logits(adapted), before), "B is 0 at first"
    scramble(adapted)
    after = logits(adapted)
    assert (after - before).abs().max() > 0.05
    with adapted.off():
        assert torch.equal(logits(adapted), before)
    assert torch.equal(logits(adapted), after)
    # What an engine gets: base and factors. Every weight by hand.
    merged, state = adapted.merged(), base.weights()
    sent = merge(adapted.base_weights(), adapted.weights())
    assert sent.keys() == state.keys()
    factors = adapted.weights()
    changed = {name for name, value in sent.items() if not torch.equal(value, state[name])}
    assert changed == {name.removesuffix(".lora_A") for name in factors if name.endswith(".lora_A")}
    for name in changed:
        by_hand = state[name] + factors[f"{name}.lora_B"] @ factors[f"{name}.lora_A"]
        torch.testing.assert_close(sent[name], by_hand)
        torch.testing.assert_close(merged.weights()[name], by_hand)
    # Logits with the plain weights are those of the side path: kv_b_proj, which DSA reads itself, included.
    torch.testing.assert_close(logits(merged), after, atol=2e-5, rtol=0)
    adapted.save(tmp_path / "out")
    torch.testing.assert_close(logits(load_policy(tmp_path / "out")), after, atol=2e-5, rtol=0)


def test_all_layers_and_experts_but_head_router_indexer(policy: Policy) -> None:
    matrices = {
        name
        for name, value in policy.named_parameters()
        if value.ndim >= 2 and not any(part in name for part in ("embed_tokens", "lm_head", ".mlp.gate.", ".indexer."))
    }
    linears, stacked = adapter_modules(policy.module)
    assert {*(f"{name}.weight" for name in linears), *stacked} == matrices
    adapted = LoraPolicy(policy, 4, 8)
    assert {name.removesuffix(".lora_A") for name in adapted.weights() if name.endswith(".lora_A")} == matrices


def test_a_layer_s_gradient_is_that_of_a_hand_made_one() -> None:
    """u = x W^T + 2 (x A^T) B^T for r = 2, alpha = 4: peft's layer against three matrices."""
    adapted = LoraPolicy(llama(), 2, 4, ["q_proj"])
    scramble(adapted)
    layer = adapted.module.model.layers[1].self_attn.q_proj  # type: ignore[union-attr]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert a.shape == (2, 32)
    assert b.shape == (32, 2)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    hand_a, hand_b = (value.detach().clone().requires_grad_() for value in (a, b))
    wanted = x @ layer.base_layer.weight.detach().T + 2.0 * (x @ hand_a.T) @ hand_b.T
    found = layer(x)
    torch.testing.assert_close(found, wanted)
    (found.square().sum()).backward()
    (wanted.square().sum()).backward()
    torch.testing.assert_close(a.grad, hand_a.grad)
    torch.testing.assert_close(b.grad, hand_b.grad)


def test_gradients_are_those_of_the_whole_weight_projected(policy: Policy) -> None:
    """dA = s B^T G and dB = s G A^T, G the gradient of the merged policy's plain weight: experts and kv_b_proj too."""
    adapted = LoraPolicy(policy, 4, 8)
    scramble(adapted)
    merged = adapted.merged()
    merged.module.requires_grad_(True)
    for one in (adapted, merged):
        one.packed_logits(TOKENS, BOUNDS).square().mean().backward()
    whole = dict(merged.named_parameters())
    checked = 0
    for name, value in adapted.named_parameters():
        if ".lora_A" not in name or "experts" in name:
            continue
        weight = whole[name.replace(".lora_A.default", "").replace(".base_layer", "")]
        other = dict(adapted.named_parameters())[name.replace("lora_A", "lora_B")]
        assert weight.grad is not None
        torch.testing.assert_close(value.grad, 2.0 * other.T @ weight.grad, atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(other.grad, 2.0 * weight.grad @ value.T, atol=1e-6, rtol=1e-3)
        checked += 1
    assert checked >= 8
    experts = [(n, v) for n, v in adapted.named_parameters() if ".lora_" in n and ".experts." in n]
    assert all(v.grad is not None and bool((v.grad != 0).any()) for _, v in experts)
    assert bool(experts) == (policy.num_experts > 0)


def test_recomputation_gives_the_same_gradient(policy: Policy) -> None:
    adapted = LoraPolicy(policy, 4, 8)
    scramble(adapted)
    found = []
    for on in (False, True):
        adapted.set_recompute(on)
        adapted.packed_logits(TOKENS, BOUNDS).square().mean().backward()
        found.append({n: v.grad for n, v in adapted.named_parameters() if v.grad is not None})
        for _, value in adapted.named_parameters():
            value.grad = None
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_files_are_peft_s(tmp_path: Path) -> None:
    """A dense model: peft itself loads the adapter onto transformers' model."""
    from peft import PeftModel

    base = llama()
    base.save(tmp_path / "base")
    adapted = LoraPolicy(base, 4, 8, ["q_proj", "down_proj"])
    scramble(adapted)
    adapted.save_adapter(tmp_path / "adapter")
    model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    with torch.no_grad():
        theirs = model(TOKENS[None, :30]).logits[0]
    torch.testing.assert_close(theirs, logits(adapted)[:30], atol=1e-5, rtol=0)
    other = LoraPolicy(llama(), 4, 8, ["q_proj", "down_proj"])
    other.load_adapter(tmp_path / "adapter")
    assert torch.equal(logits(other), logits(adapted))
    with pytest.raises(ValueError, match=r"is another adapter .*learner\.lora must be what it was"):
        LoraPolicy(llama(), 4, 8).load_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"is another adapter"):
        LoraPolicy(llama(), 2, 8, ["q_proj", "down_proj"]).load_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"started without learner\.lora\.rank"):
        other.load_adapter(tmp_path / "base")


def test_a_copy_has_an_adapter_of_its_own() -> None:
    adapted = LoraPolicy(llama(), 4, 8)
    scramble(adapted)
    copied = cast_copy(adapted, torch.float32)
    before = logits(copied)
    scramble_more = dict(adapted.named_parameters())
    with torch.no_grad():
        next(value for name, value in scramble_more.items() if ".lora_B" in name).add_(1.0)
    assert torch.equal(logits(copied), before)
    with copied.off():  # type: ignore[attr-defined]
        assert not torch.equal(logits(copied), before)
    assert not torch.equal(logits(adapted), before)


def test_unknown_modules_and_factors_are_named() -> None:
    with pytest.raises(ValueError, match=r"modules: 'experts' is no module with an adapter; here: down_proj"):
        LoraPolicy(llama(), 4, 8, ["q_proj", "experts"])
    with pytest.raises(ValueError, match="an adapter for x, which the base policy does not have"):
        merge({}, {"x.lora_A": torch.ones(1, 2), "x.lora_B": torch.ones(2, 1)})
