"""Weights written tensor by tensor: the bytes of safetensors and of transformers, one at a time, all or nothing."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from moe_families import FAMILIES, write
from safetensors.torch import load_file, save_file
from test_checkpoint_files import TINY, llama
from torch import Tensor

from rl.policy.checkpoint_files import CheckpointFiles, check_one_reading
from rl.policy.loading import build_policy, load_policy
from rl.policy.lora import LoraPolicy, merged
from rl.policy.weight_files import WeightFiles, write_weights
from rl.policy.weight_plan import Entry, Given
from rl.policy.weight_source import WeightSource


def as_it_is(named: dict[str, Tensor]) -> Mapping[str, Tensor]:
    return named


def same_files(one: Path, other: Path) -> None:
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in other.iterdir())
    assert [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()] == []


def test_the_bytes_are_those_of_safetensors(tmp_path: Path) -> None:
    named = {
        "b": torch.randn(3, 5), "a": torch.randn(5, 3).t(), "ä": torch.randn(7).bfloat16(), "count": torch.tensor(3),
        "none": torch.empty(0, 4), "flag": torch.tensor([True]), "eight": torch.randn(4, 4).to(torch.float8_e4m3fn),
        "half": torch.randn(3).half(), "byte": torch.arange(5, dtype=torch.uint8), "wide": torch.randn(3).double(),
    }  # fmt: skip
    files = WeightFiles(tmp_path, named)
    for name, value in named.items():
        assert not (tmp_path / "model.safetensors").exists()
        files.write(name, value)
    files.end()
    save_file({n: v.contiguous() for n, v in named.items()}, tmp_path / "wanted", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "wanted").read_bytes()
    assert [file.name for file in tmp_path.iterdir() if file.name != "wanted"] == ["model.safetensors"]


@pytest.mark.parametrize("family", ["llama", *FAMILIES])
def test_the_files_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    """Names of the hub, one tensor an expert; a tied head once (llama)."""
    policy: Any = load_policy(llama(tmp_path / "in") if family == "llama" else write(family, tmp_path / "in"))
    policy.save(tmp_path / "ours")
    policy.module.save_pretrained(tmp_path / "theirs")
    same_files(tmp_path / "ours", tmp_path / "theirs")


def test_several_files_and_what_was_there_before(tmp_path: Path) -> None:
    named = {f"t{n}": torch.full((100,), float(n)) for n in range(7)}  # 400 bytes each
    given = WeightSource(named).given
    (tmp_path / "model-00001-of-00009.safetensors.part").touch()  # of one that was killed
    for shard_bytes, files in ((1_000, 4), (100, 7), (10_000, 1), (1_200, 3)):
        write_weights(tmp_path, given(), as_it_is, (), shard_bytes)
        found = sorted(tmp_path.glob("*.safetensors"))
        assert len(found) == files
        (tmp_path / "config.json").write_text("{}")
        check_one_reading(tmp_path)
        again = dict(CheckpointFiles(tmp_path).stream())
        assert all(torch.equal(again[name], value) for name, value in named.items())
        if files > 1:
            index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
            assert index["metadata"] == {"total_size": 2_800}
            assert index["weight_map"] == {name: file.name for file in found for name in load_file(file)}
    assert not list(tmp_path.glob("*.part"))


class Counted:
    """Tensors one after the other, and how many of those that were given are still held when the next is asked for."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.held: list[int] = []
        self._alive: list[weakref.ref[Tensor]] = []
        self.given = Given(entries, self._tensors(entries))

    def _tensors(self, entries: tuple[Entry, ...]) -> Iterator[Tensor]:
        for entry in entries:
            self.held.append(sum(ref() is not None for ref in self._alive))
            value = entry.empty("cpu").fill_(1)
            self._alive.append(weakref.ref(value))
            yield value
            del value


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    policy = build_policy(TINY)
    counted = Counted(WeightSource(policy.weights()).entries)
    policy.save(tmp_path, counted.given)
    assert len(counted.held) > 20
    assert max(counted.held) <= 1, "the one before, until the next has come"


def test_what_stops_in_the_middle_leaves_what_was_there(tmp_path: Path) -> None:
    policy = build_policy(TINY)
    policy.save(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "before")

    def some() -> Iterator[Tensor]:
        for n, value in enumerate(WeightSource(policy.weights())):
            if n == 5:
                raise RuntimeError("a rank is gone")
            yield value * 2

    with pytest.raises(RuntimeError, match="a rank is gone"):
        policy.save(tmp_path / "out", Given(WeightSource(policy.weights()).entries, some()))
    same_files(tmp_path / "out", tmp_path / "before")


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"has room for 0\.0 GiB; the weights take"):
        build_policy(TINY).save(tmp_path)
    assert not list(tmp_path.glob("*.safetensors*"))


def test_an_adapter_is_merged_tensor_by_tensor(tmp_path: Path) -> None:
    policy = LoraPolicy(build_policy(TINY), 2, 6)
    for name, value in policy.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    policy.save(tmp_path / "ours")
    policy.merged().save(tmp_path / "theirs")
    found, wanted = (load_policy(tmp_path / name).weights() for name in ("ours", "theirs"))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)
    base = WeightSource(policy.base_weights())
    changed = [n for n, v in zip(base.entries, merged(base, policy.weights()).tensors, strict=True)
               if not torch.equal(v, policy.base_weights()[n.name])]  # fmt: skip
    assert len(changed) > 10
    (tmp_path / "ours" / "model.safetensors").unlink()
    (tmp_path / "theirs" / "model.safetensors").unlink()
    same_files(tmp_path / "ours", tmp_path / "theirs")


def test_a_model_whose_files_hold_one_tensor_for_several(tmp_path: Path) -> None:
    """As hrm_text of transformers: it is converted all at once."""

    def joined(named: dict[str, Tensor]) -> Mapping[str, Tensor]:
        if named.keys() >= {"gate", "up"}:
            return {"gate_up": torch.cat([named["gate"], named["up"]]), "other": named["other"]}
        return named

    named = {"gate": torch.randn(2, 3), "other": torch.randn(4), "up": torch.randn(2, 3)}
    write_weights(tmp_path, WeightSource(named).given(), joined)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == {"gate_up", "other"}
    assert torch.equal(found["gate_up"], torch.cat([named["gate"], named["up"]]))
