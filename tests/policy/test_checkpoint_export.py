"""A checkpoint written again: bfloat16, float32, FP8 blocks; the numbers by hand and against an own quantiser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_checkpoint_files import TINY, llama, released
from test_checkpoint_files import quantise as other_quantise

from configs.schema import ExportConfig
from rl.policy.checkpoint_checks import check_checkpoint
from rl.policy.checkpoint_export import FORMS, export, is_quantised, quantise
from rl.policy.checkpoint_files import CheckpointError, CheckpointFiles, dequantise
from rl.policy.loading import build_policy, load_policy


def run(source: Path, target: Path, form: str, shard_bytes: int = 2**40) -> list[tuple[int, int]]:
    return list(export(source, target, form, shard_bytes))


def tiny(folder: Path) -> Path:
    build_policy(TINY).save(folder)
    return folder


def test_quantise_by_hand() -> None:
    """Blocks of 2 x 2: the largest of each becomes 448; 3 / 7 * 448 = 192 is a value of e4m3, as are 448 and 64."""
    value = torch.tensor([[7.0, 3.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    stored, scale = quantise(value, (2, 2))
    torch.testing.assert_close(scale, torch.tensor([[7 / 448, 1 / 448], [1.0, 1.0]]))
    assert stored.float().tolist() == [[448.0, 192.0, -448.0], [64.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(dequantise(stored, scale, (2, 2)), value)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31))
def test_as_another_quantiser_does(rows: int, columns: int, seed: int) -> None:
    value = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    stored, scale = quantise(value)
    wanted, wanted_scale = other_quantise(value)
    assert torch.equal(scale, wanted_scale)
    assert torch.equal(stored.float(), wanted.float())


def test_bfloat16_in_several_files(tmp_path: Path) -> None:
    source = tiny(tmp_path / "in")
    steps = run(source, tmp_path / "out", "bfloat16", shard_bytes=400_000)
    assert len(steps) > 2
    assert steps[-1][0] == steps[-1][1], "what was announced is what was written"
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert not list((tmp_path / "out").glob("part-*"))
    check_checkpoint(tmp_path / "out")
    wanted, found = load_policy(source).weights(), load_policy(tmp_path / "out").weights()
    for name, value in wanted.items():
        kept = name.endswith("e_score_correction_bias") or "weights_proj" in name
        assert torch.equal(found[name], value if kept else value.bfloat16().float()), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    modes = {file.stat().st_mode for folder in (source, tmp_path / "out") for file in folder.iterdir()}
    assert len(modes) == 1, "who can read the configuration can read the weights"


def test_fp8_and_back(tmp_path: Path) -> None:
    """Linear layers and experts in FP8 with scales, the rest as in the release; float32 of it is what FP8 says."""
    source = tiny(tmp_path / "in")
    (source / "tokenizer.json").write_text("{}")
    run(source, tmp_path / "fp8", "float8", shard_bytes=500_000)
    files = CheckpointFiles(tmp_path / "fp8")
    plain = CheckpointFiles(source)
    assert (tmp_path / "fp8" / "tokenizer.json").is_file()
    quantised = {name for name in files.names if is_quantised(name, files.shapes[name])}
    assert quantised == {name for name in files.names if re.search(r"(_proj|_mqa|\.wq_b|\.wk)\.weight$", name)} - {
        name for name in files.names if "weights_proj" in name
    }
    assert not any("mlp.gate." in name or "embed" in name or "lm_head" in name for name in quantised)
    for name in plain.names:
        value = plain.tensor(name)
        expected = dequantise(*quantise(value)) if name in quantised else value
        assert torch.equal(files.tensor(name).float(), expected if name in quantised else files.tensor(name).float())
    config = json.loads((tmp_path / "fp8" / "config.json").read_text())
    assert config["quantization_config"]["weight_block_size"] == [128, 128]
    check_checkpoint(tmp_path / "fp8")
    again = load_policy(tmp_path / "fp8").weights()
    run(tmp_path / "fp8", tmp_path / "plain", "float32")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    back = load_policy(tmp_path / "plain").weights()
    assert all(torch.equal(back[name], value) for name, value in again.items())
    size = {f.parent.name: f.stat().st_size for f in (source / "model.safetensors",)}
    assert sum(f.stat().st_size for f in (tmp_path / "fp8").glob("*.safetensors")) < 0.45 * size["in"]


def test_what_was_released_goes_out_again(tmp_path: Path) -> None:
    """FP8 with an MTP layer in two shards -> FP8: the same values, and nothing is lost."""
    source, truth = released(tmp_path / "in")
    run(source, tmp_path / "out", "float8")
    files = CheckpointFiles(tmp_path / "out")
    assert sorted(files.names) == sorted(CheckpointFiles(source).names)
    for name, value in truth.items():
        assert torch.equal(files.tensor(name).float(), value), name


def test_a_dense_model(tmp_path: Path) -> None:
    source = llama(tmp_path / "in")
    run(source, tmp_path / "fp8", "float8")
    run(tmp_path / "fp8", tmp_path / "out", "float32")
    found, wanted = load_policy(tmp_path / "out").weights(), load_policy(source).weights()
    for name, value in wanted.items():
        expected = dequantise(*quantise(value)) if is_quantised(name, tuple(value.shape)) else value.bfloat16().float()
        assert torch.equal(found[name], expected), name


@pytest.mark.run
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["path=in", "out=full"], "out=full: there is something in it"),
        (["path=in", "out=in/sub"], "out=in/sub: is inside path=in"),
        (["path=nowhere", "out=out"], "path=nowhere: no such directory"),
        (["path=in", "out=out", "dtype=int4"], "dtype='int4': must be one of float32, bfloat16, float8"),
        (["out=out"], "path is missing"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    tiny(tmp_path / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    command = [sys.executable, "-m", "rl.commands.export", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_stacked_experts_and_a_full_disk_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    source = tiny(tmp_path / "in")
    save_file(load_policy(source).weights(), source / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds the experts of a layer in one tensor"):
        run(source, tmp_path / "out", "float8")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match=r"has room for 0.0 GiB; the checkpoint needs"):
        run(source, tmp_path / "out", "bfloat16")


def test_the_configuration_knows_the_forms() -> None:
    mark = get_args(get_type_hints(ExportConfig, include_extras=True)["dtype"])[1]
    assert mark.words == FORMS
