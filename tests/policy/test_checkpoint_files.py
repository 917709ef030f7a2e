"""Checkpoints as hubs ship them: which files count, FP8 blocks by hand, what is damaged, in one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moe_families import GLM5, write
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from rl.policy.checkpoint_checks import check_checkpoint
from rl.policy.checkpoint_files import BLOCK, CheckpointError, CheckpointFiles, dequantise
from rl.policy.io import load_dsa
from rl.policy.loading import build_policy, load_policy

pytestmark = pytest.mark.unit

FP8_MAX = 448.0  # the largest finite float8_e4m3fn
TINY = {"preset": "tiny_dsa", "vocab_size": 64, "seed": 0}


def quantise(value: torch.Tensor, block: tuple[int, int] = BLOCK) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 [rows, columns] and scales [ceil(rows/128), ceil(columns/128)] of a matrix: the largest of a block is 448."""
    rows, columns = value.shape
    padded = torch.nn.functional.pad(value.float(), (0, -columns % block[1], 0, -rows % block[0]))
    blocks = padded.unflatten(1, (-1, block[1])).unflatten(0, (-1, block[0]))  # [R, b0, C, b1]
    scale = blocks.abs().amax(dim=(1, 3)).clamp_min(1e-12) / FP8_MAX
    spread = scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    return (value.float() / spread).to(torch.float8_e4m3fn), scale


def llama(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    file = folder / "model.safetensors"
    state = load_file(file)
    edit(state)
    save_file(state, file, metadata={"format": "pt"})
    return folder


def test_dequantise_by_hand() -> None:
    """Blocks of 2 x 2 over a 3 x 3 matrix: the last row and column are blocks of their own."""
    stored = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [8.0, 8.0, 16.0]]).to(torch.float8_e4m3fn)
    scale = torch.tensor([[0.5, 2.0], [0.25, 1.0]])
    assert dequantise(stored, scale, (2, 2)).tolist() == [[0.5, 1.0, 8.0], [0.5, 1.0, 8.0], [2.0, 2.0, 16.0]]
    with pytest.raises(CheckpointError, match=r"shape \(1, 2\); blocks of \(2, 2\) need \(2, 2\)"):
        dequantise(stored, scale[:1], (2, 2))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31))
def test_quantised_blocks_come_back(rows: int, columns: int, seed: int) -> None:
    """FP8 e4m3 has 3 bits of mantissa: half a unit in the last place is 1/16 of the value; below 2^-6 of the largest
    scale step values are subnormal, where the absolute error counts."""
    value = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    stored, scale = quantise(value)
    back = dequantise(stored, scale)
    largest = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    assert ((back - value).abs() <= value.abs() / 16 + largest * 2**-10 + 1e-12).all()
    again, same = quantise(back)
    assert torch.equal(dequantise(again, same), back), "what FP8 can hold is held exactly"


def released(folder: Path, kind: str = "deepseek_v32") -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny checkpoint in the layout of DeepSeek's and Z.ai's FP8 releases, and its weights as float32.

    Linear layers FP8 with scales, the rest bfloat16; one tensor an expert; an MTP layer; two shards with an index.
    """
    policy = build_policy(TINY) if kind == "deepseek_v32" else load_policy(write(kind, folder))
    policy.save(folder)
    state = load_file(folder / "model.safetensors")
    truth: dict[str, torch.Tensor] = {}
    stored: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        linear = (value.ndim == 2 and "_proj" in name and "indexer.weights_proj" not in name) or ".wq_b." in name
        if linear:
            stored[name], scale = quantise(value)
            stored[name + "_scale_inv"] = scale
            truth[name] = dequantise(stored[name], scale)
        else:
            stored[name] = value if "e_score" in name else value.to(torch.bfloat16)
            truth[name] = stored[name].float()
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    stored[f"model.layers.{layers}.eh_proj.weight"] = torch.zeros(4, 4).to(torch.float8_e4m3fn)
    stored[f"model.layers.{layers}.eh_proj.weight_scale_inv"] = torch.ones(1, 1)
    (folder / "model.safetensors").unlink()
    names = sorted(stored)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({n: stored[n].contiguous() for n in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, part in shards.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
        "num_nextn_predict_layers": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, truth


@pytest.mark.parametrize("kind", ["deepseek_v32", *GLM5])
def test_dsa_as_released_is_dequantised(kind: str, tmp_path: Path) -> None:
    """A scale may lie in another shard than its tensor; every weight is exact, and float32."""
    folder, truth = released(tmp_path, kind)
    check_checkpoint(folder)
    policy = load_policy(folder)
    policy.save(tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    back = load_file(tmp_path / "out" / "model.safetensors")
    assert back.keys() == truth.keys()
    for name, value in truth.items():
        assert back[name].dtype == torch.float32
        assert torch.equal(back[name], value), name


def test_fp8_without_scales_is_refused(tmp_path: Path) -> None:
    folder, _ = released(tmp_path)
    file = folder / "model-00001-of-00002.safetensors"
    state = load_file(file)
    name = next(n for n in state if n.endswith("_scale_inv") and "layers.0" in n)
    del state[name]
    save_file(state, file, metadata={"format": "pt"})
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del index["weight_map"][name]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for load in (check_checkpoint, load_dsa):
        with pytest.raises(CheckpointError, match=f"is FP8 and has no {name}"):
            load(folder)


def test_half_a_download(tmp_path: Path) -> None:
    folder, _ = released(tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names model-00002-of-00002.safetensors \(1 of 2 files are not there\)"):
        check_checkpoint(folder)


def test_a_truncated_file(tmp_path: Path) -> None:
    file = llama(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read .*half a download"):
        check_checkpoint(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(tmp_path: Path, bad: float) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["model.norm.weight"][3] = bad

    with pytest.raises(CheckpointError, match=r"model.norm.weight in model.safetensors holds 1 values that are NaN"):
        check_checkpoint(change(llama(tmp_path), spoil))


def test_shapes_and_names(tmp_path: Path) -> None:
    narrow = change(llama(tmp_path / "a"), lambda s: s.update({"lm_head.weight": torch.zeros(60, 32)}))
    with pytest.raises(CheckpointError, match=r"lm_head.weight has shape \(60, 32\) .* asks for \(64, 32\)"):
        check_checkpoint(narrow)
    lacking = change(llama(tmp_path / "b"), lambda s: s.pop("model.norm.weight"))
    for load in (check_checkpoint, load_policy):
        with pytest.raises(CheckpointError, match=r"do not match config.json: .*model.norm.weight"):
            load(lacking)
    build_policy(TINY).save(tmp_path / "c")
    own = change(tmp_path / "c", lambda s: s.pop("model.norm.weight"))
    for load in (check_checkpoint, load_policy):
        with pytest.raises(CheckpointError, match=r"missing \['model.norm.weight'\] \(1\)"):
            load(own)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    llama(tmp_path)
    check_checkpoint(tmp_path, largest_token=63)
    with pytest.raises(CheckpointError, match="ids up to 64, the model's vocabulary is 64"):
        check_checkpoint(tmp_path, largest_token=64)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    llama(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pytorch_model.bin: a pickle can run any code"):
        check_checkpoint(tmp_path)


def test_remote_code_is_not_run(tmp_path: Path) -> None:
    llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "novel", "auto_map": {"AutoModelForCausalLM": "modeling_novel.Novel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"model_type=novel is unknown .* code of its own .* not run"):
        check_checkpoint(tmp_path)


def test_what_lies_beside_a_model_is_no_part_of_it(tmp_path: Path) -> None:
    """An index or model.safetensors names the model; adapters and consolidated copies are left alone."""
    llama(tmp_path)
    save_file({"lora_A.weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    save_file({"layers.0.wq.weight": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    assert not {"lora_A.weight", "layers.0.wq.weight"} & set(CheckpointFiles(tmp_path).names)
    check_checkpoint(tmp_path)


def test_a_run_does_not_start_from_quantised_weights(tmp_path: Path) -> None:
    """The learner could read them; an engine that holds FP8 cannot take the learner's weights. A copy is plain."""
    from rl.run.preflight import check_policy

    folder, _ = released(tmp_path / "in")
    with pytest.raises(ValueError, match=r"quantised \(quantization_config in config.json\).*make a plain copy"):
        check_policy(folder)
    load_policy(folder).save(tmp_path / "out")
    check_policy(tmp_path / "out")


def test_what_is_checked_is_what_is_loaded(tmp_path: Path) -> None:
    """transformers takes model.safetensors before an index, needs one of them, and puts an adapter that lies beside a
    model on it: each time other weights than those that were looked at, and that engines get."""
    for load in (check_checkpoint, load_policy):
        both = llama(tmp_path / f"both-{load.__name__}")
        index = both / "model.safetensors.index.json"
        state = load_file(both / "model.safetensors")
        index.write_text(json.dumps({"weight_map": dict.fromkeys(state, "model.safetensors")}))
        load(both)  # an index of the one file says the same
        shard = both / "model-00001-of-00001.safetensors"
        save_file(state, shard, metadata={"format": "pt"})
        index.write_text(json.dumps({"weight_map": dict.fromkeys(state, shard.name)}))
        with pytest.raises(CheckpointError, match=rf"are both in .*, and the index names {shard.name}: which of them"):
            load(both)
        (both / "model.safetensors").rename(both / "pytorch_model.bin")
        index.unlink()
        with pytest.raises(CheckpointError, match=r"has weights, but no model.safetensors.index.json that names them"):
            load(both)
        adapted = llama(tmp_path / f"adapted-{load.__name__}")
        (adapted / "adapter_config.json").write_text("{}")
        with pytest.raises(CheckpointError, match=r"adapter_config.json in .* lies beside a whole model"):
            load(adapted)
        named = llama(tmp_path / f"named-{load.__name__}")
        config = json.loads((named / "config.json").read_text())
        (named / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
        with pytest.raises(CheckpointError, match=r"transformers_weights in .*config.json names other weights"):
            load(named)


def test_more_that_does_not_fit(tmp_path: Path) -> None:
    def told(name: str, **values: Any) -> Path:
        folder = llama(tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))
        return folder

    with pytest.raises(CheckpointError, match=r"asks for 1 layers, and model.layers.1.* \(9 such\) is of another"):
        check_checkpoint(told("fewer", num_hidden_layers=1))
    check_checkpoint(told("prediction", num_hidden_layers=1, num_nextn_predict_layers=1))  # those are left out
    with pytest.raises(CheckpointError, match=r"lm_head.weight and model.embed_tokens.weight in .* differ"):
        check_checkpoint(told("tied", tie_word_embeddings=True))
    with pytest.raises(CheckpointError, match=r"asks for what transformers does not have \(KeyError: 'nonsense'\)"):
        check_checkpoint(told("activation", hidden_act="nonsense"))
    with pytest.raises(CheckpointError, match=r"^model_type=t5 is no causal language model \([^\n]*\)$"):
        check_checkpoint(told("t5", model_type="t5"))

    def large(state: dict[str, torch.Tensor]) -> None:
        state["model.norm.weight"] = state["model.norm.weight"].double() * 1e300

    with pytest.raises(CheckpointError, match=r"model.norm.weight in model.safetensors holds 32 values"):
        check_checkpoint(change(llama(tmp_path / "double"), large))


@pytest.mark.parametrize("index", ["null", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none(tmp_path: Path, index: str) -> None:
    (llama(tmp_path) / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json is no index of a checkpoint"):
        check_checkpoint(tmp_path)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    """Eight-bit weights of some libraries have the names and shapes of the plain ones."""
    name = "model.layers.0.self_attn.q_proj.weight"

    def quantised(state: dict[str, torch.Tensor]) -> None:
        state[name] = torch.ones(32, 32, dtype=torch.int8)

    with pytest.raises(CheckpointError, match=rf"{name} in model.safetensors is stored as I8, .*: it is quantised"):
        check_checkpoint(change(llama(tmp_path / "a"), quantised))
    build_policy(TINY).save(tmp_path / "b")
    own = change(tmp_path / "b", lambda s: s.update({"model.norm.weight": s["model.norm.weight"].to(torch.int64)}))
    with pytest.raises(CheckpointError, match=r"model.norm.weight in model.safetensors is stored as I64"):
        check_checkpoint(own)
