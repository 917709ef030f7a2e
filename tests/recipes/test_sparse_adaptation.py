"""`rl-adapt` in miniature: what each stage may change, what it learns from, and what the command leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from moe_families import glm5
from omegaconf import OmegaConf

from configs.schema import AdaptConfig, AdaptDataConfig, AdaptStageConfig, register
from rl.chat.tokenizer import train_tokenizer
from rl.data.sequences import open_source
from rl.learner.config import SFTConfig
from rl.learner.forward import packed_scores
from rl.learner.sft import SFTTrainer
from rl.policy.dsa import DSAPolicy
from rl.policy.loading import build_policy, load_policy
from rl.policy.model import DSAForCausalLM
from rl.policy.replay import Record
from rl.recipes.sparse_adaptation import SPARSE, STATES, WARMUP, adapt, new_rundir, publish
from rl.recipes.sparse_recall import table
from rl.tracking.metrics import undocumented
from rl.tracking.rundir import RunDir
from rl.types import TokenStream

MINI = (
    "experiment=needle",
    "data={length: 128, held_out: 3, needles: {keys: 12, facts: 8, questions: 8, values: 4, fillers: 8}}",
    "policy.overrides={hidden_size: 32, intermediate_size: 32, num_hidden_layers: 2, first_k_dense_replace: 2}",
    "policy.overrides.initializer_range=0.2",
    "index_topk=16",
    "dense={lengths: [32, 128], steps: [2, 2], tokens_per_step: 256, warmup_steps: 0}",
    "warmup={steps: 12, lengths: [64, 128], warmup_steps: 0, tokens_per_step: 256, lr: 1e-2, schedule: constant}",
    "sparse={steps: 3, warmup_steps: 0, tokens_per_step: 256}",
)


@pytest.fixture(autouse=True, scope="module")
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def adapt_config(root: Path, *overrides: str) -> AdaptConfig:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("adapt", [*MINI, f"runs_dir={root / 'runs'}", f"cache_dir={root / 'cache'}", *overrides])
    typed: Any = OmegaConf.to_object(cfg)
    return typed


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("adapt")
    return root, adapt(adapt_config(root))


def weights(root: Path, stage: str) -> dict[str, torch.Tensor]:
    (directory,) = (root / "cache").glob(f"adapt-{stage}-*")
    return load_policy(directory).weights()


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_each_stage_changes_what_it_may(done: tuple[Path, dict[str, Any]]) -> None:
    root, _ = done
    dense, warmed, adapted = (weights(root, stage) for stage in ("dense", "warmup", "sparse"))
    indexer = {name for name in dense if ".indexer." in name}
    assert changed(dense, warmed) == indexer
    assert changed(warmed, adapted) > indexer
    published = load_policy(root / "runs/needle/policy").weights()
    assert not changed(adapted, published)


def test_the_warm_up_lowers_the_indexers_loss(done: tuple[Path, dict[str, Any]]) -> None:
    training = done[1]["training"]
    assert training[WARMUP]["steps"] == 12
    assert 0 < training[WARMUP]["last_indexer_kl"] < 0.9 * training[WARMUP]["first_indexer_kl"]
    assert training[SPARSE]["steps"] == 3


def test_the_result_holds_the_four_measurements(done: tuple[Path, dict[str, Any]]) -> None:
    root, result = done
    policy = root / "runs/needle/policy"
    assert json.loads((policy / "adapt.json").read_text()) == json.loads(json.dumps(result))
    assert table(result) in (policy / "README.md").read_text()
    assert (policy / "tokenizer.json").is_file()
    assert json.loads((policy / "config.json").read_text())["index_topk"] == 16
    assert list(result["states"]) == list(STATES)
    for measured in result["states"].values():
        mass = measured["mass"]
        assert 0 <= measured["accuracy"] <= 1
        assert np.mean(measured["by_sequence"]) == pytest.approx(measured["accuracy"])  # all have 8 questions
        assert all(0 <= share <= 1 for share in measured["found"].values())
        assert 0 < mass["indexer"]["targets"] <= mass["oracle"]["targets"] <= 1
        assert len(mass["indexer"]["targets_by_layer"]) == 2
        assert mass["random"]["targets"] == pytest.approx(16 / 120, rel=0.1)  # k / (t + 1) at 112 <= t < 127
    dense, untrained = (result["states"][s]["mass"]["oracle"]["targets_by_layer"][0] for s in STATES[:2])
    assert dense == pytest.approx(untrained)  # the first layer sees the same input, whatever the indexer chose


def test_metrics_are_documented_rows_of_every_stage(done: tuple[Path, dict[str, Any]]) -> None:
    rows = RunDir.existing(done[0] / "runs/needle").read_metrics()
    counts = {stage: sum(row["stage"] == stage for row in rows) for stage in ("dense", "warmup", "sparse", *STATES)}
    assert counts == {"dense": 5, "warmup": 12, "sparse": 3, **dict.fromkeys(STATES[1:], 1)}
    assert undocumented({key for row in rows for key in row} - {"stage", "step", "time"}) == []


def test_finished_stages_are_reused_and_a_taken_name_is_numbered(
    done: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, first = done
    again = adapt(adapt_config(root))
    assert capsys.readouterr().out.count("reused") == 3
    assert again["states"] == first["states"]
    assert (root / "runs/needle-2/policy/adapt.json").is_file()
    other = adapt(adapt_config(root, "data.split=test"))  # the same training, other documents measured
    assert capsys.readouterr().out.count("reused") == 3
    assert other["states"] != first["states"]


def test_a_policy_that_is_not_complete_does_not_appear(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(KeyError):
        publish(source, tmp_path / "policy", {"index_topk": 1, "length": 2})
    assert not (tmp_path / "policy").exists()


def sparse_policy() -> DSAPolicy:
    overrides = {"hidden_size": 32, "num_hidden_layers": 2, "index_topk": 8, "initializer_range": 0.3}
    policy = build_policy({"preset": "tiny_dsa", "vocab_size": 40, "seed": 1, "overrides": overrides})
    assert isinstance(policy, DSAPolicy)
    return policy


def test_in_stage_two_the_indexer_learns_from_its_own_loss_alone() -> None:
    policy = sparse_policy()
    example = TokenStream.language_modelling(np.arange(40) * 7 % 40)
    trainer = SFTTrainer(policy, SFTConfig())
    (batch,) = trainer._pack(trainer._items([example]))

    def gradients(part: str) -> tuple[float, float]:
        """Gradient norms of (indexer, everything else) from one part of the loss."""
        for _, parameter in policy.named_parameters():
            parameter.grad = None
        record = Record(want_experts=False, want_indexer_kl="sparse")
        scores = packed_scores(policy, batch, record=record)
        (-scores.logprobs_N.sum() if part == "lm" else record.indexer_kl).backward()
        named = [(".indexer." in n, p.grad) for n, p in policy.named_parameters()]
        inside = [g.norm() for own, g in named if own and g is not None]
        outside = [g.norm() for own, g in named if not own and g is not None]
        return float(sum(inside)), float(sum(outside))

    indexer_from_lm, others_from_lm = gradients("lm")
    indexer_from_kl, others_from_kl = gradients("kl")
    assert indexer_from_lm == 0.0 < others_from_lm
    assert others_from_kl == 0.0 < indexer_from_kl


def test_a_fresh_indexer_is_the_seeds_and_nothing_else_changes() -> None:
    policy = sparse_policy()
    before = {n: v.clone() for n, v in policy.weights().items()}
    state = torch.get_rng_state()
    policy.reset_indexer(5)
    assert torch.equal(torch.get_rng_state(), state)
    first = {n: v.clone() for n, v in policy.weights().items()}
    assert {n.split(".indexer.")[1] for n in changed(before, first)} == {
        "wq_b.weight",
        "wk.weight",
        "weights_proj.weight",
    }
    policy.reset_indexer(6)
    assert changed(first, policy.weights())
    policy.reset_indexer(5)
    assert not changed(first, policy.weights())


def test_index_topk_holds_in_every_layer_and_is_stored(tmp_path: Path) -> None:
    policy = sparse_policy()
    tokens = torch.arange(30) * 7 % 40
    at_eight = policy.packed_logits(tokens, [0, 30])
    policy.set_index_topk(5)
    assert not torch.allclose(at_eight[5:], policy.packed_logits(tokens, [0, 30])[5:])
    policy.save(tmp_path)
    assert torch.equal(load_policy(tmp_path).packed_logits(tokens, [0, 30]), policy.packed_logits(tokens, [0, 30]))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("index_topk=128", "data.length=128 is not above index_topk=128"),
        ("data.length=8192", "data.length=8192 is above the policy's max_position_embeddings=4096"),
        ("data.source=text", "policy.path is missing"),
        ("warmup.steps=0", "warmup.steps=0: must be at least 1"),
        ("sparse.lengths=[32,64,96,128]", r"sparse\.lengths=\[32, 64, 96, 128\]: more than sparse\.steps=3"),
        ("warmup.lengths=[16,128]", "warmup.lengths has 16: a needle document of facts=8 and questions=8 takes 26"),
        ("dense.lengths=[32,8192]", "dense.lengths has 8192: .* max_position_embeddings=4096"),
        ("policy.path=no/such/place", "policy.path=no/such/place: no such directory"),
    ],
)
def test_what_cannot_work_is_refused_before_training(override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        adapt(adapt_config(tmp_path, override))
    assert not (tmp_path / "runs").exists()


def test_the_lengths_of_a_stage_take_equal_parts_of_its_steps() -> None:
    def of(steps: int, *lengths: int) -> list[int]:
        return AdaptStageConfig(steps=steps, lengths=[*lengths]).length_of_steps(64)

    assert of(3) == [64, 64, 64]
    assert of(6, 16, 16, 64) == [16, 16, 16, 16, 64, 64]
    assert of(5, 16, 64) == [16, 16, 16, 64, 64]


def test_a_text_has_one_length(tmp_path: Path) -> None:
    sparse_policy().save(tmp_path / "dense")
    overrides = (f"policy.path={tmp_path}/dense", "data.source=text", "warmup.lengths=[64,128]")
    with pytest.raises(ValueError, match=r"warmup\.lengths=\[64, 128\]: a text is cut once, to data\.length=128"):
        adapt(adapt_config(tmp_path, *overrides))


def test_a_model_without_an_indexer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="is a 'llama' model without DSA's indexer"):
        adapt(adapt_config(tmp_path, f"policy.path={tmp_path}"))


def test_glm5_is_adapted(tmp_path: Path) -> None:
    """A layer that borrows its choice has no indexer to warm up, and its recall is that of the lender's choice."""
    cfg = adapt_config(tmp_path)
    config = glm5(sharing=True, vocab_size=cfg.data.needles.vocab_size)
    DSAPolicy(DSAForCausalLM(config)).save(tmp_path / "glm")
    cfg.data.needles.save_tokenizer(tmp_path / "glm")
    result = adapt(adapt_config(tmp_path, f"policy.path={tmp_path}/glm"))
    assert result["training"][WARMUP]["last_indexer_kl"] < result["training"][WARMUP]["first_indexer_kl"]
    before, warmed = load_policy(tmp_path / "glm").weights(), weights(tmp_path, "warmup")
    assert changed(before, warmed) == {name for name in before if ".indexer." in name}
    assert {name.split(".")[2] for name in changed(before, warmed)} == {"0", "2", "4"}
    assert load_policy(tmp_path / "runs/needle/policy").module.config.index_topk == 16


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_a_file_of_text_is_cut_into_pieces(suffix: str, tmp_path: Path) -> None:
    import datasets

    documents = [f"document {i} says that {i} is the number of things it counts. " * 6 for i in range(12)]
    table_of_text = datasets.Dataset.from_dict({"text": documents})
    path = tmp_path / f"corpus{suffix}"
    if suffix == ".txt":
        path.write_text("\n".join(documents))
    elif suffix == ".jsonl":
        table_of_text.to_json(path)
    else:
        table_of_text.to_parquet(path)
    tokenizer = train_tokenizer(documents, 500)
    tokenizer.save(tmp_path)
    config = AdaptDataConfig(path=str(path), length=32, held_out=4)
    source = open_source(config, tmp_path, tmp_path / "cache")
    pieces = len(source.pieces)  # type: ignore[attr-defined]
    others = pieces - 8
    epoch = [tuple(source.training(i, 32).tokens) for i in range(others)]
    next_epoch = [tuple(source.training(i, 32).tokens) for i in range(others, 2 * others)]
    assert sorted(epoch) == sorted(next_epoch)
    assert epoch != next_epoch
    stream = [t for piece in source.pieces for t in piece]  # type: ignore[attr-defined]
    whole = documents if suffix != ".txt" else ["\n".join(documents)]
    expected = [t for text in whole for t in (*tokenizer.encode(text), tokenizer.eos_id)]
    assert stream == expected[: len(stream)]
    last = [tuple(p) for p in source.pieces[-8:]]  # type: ignore[attr-defined]
    assert [tuple(s.tokens) for s in source.held_out] == last[:4]
    config.split = "test"
    assert [tuple(s.tokens) for s in open_source(config, tmp_path, tmp_path / "cache").held_out] == last[4:]
    assert not {*epoch} & {*last}
    assert source.held_out[0].loss_mask.tolist() == [False] + [True] * 31


def test_too_little_text_says_so(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a few words"], 500)
    tokenizer.save(tmp_path)
    (tmp_path / "short.txt").write_text("a few words")
    config = AdaptDataConfig(path=str(tmp_path / "short.txt"), length=32, held_out=4)
    with pytest.raises(ValueError, match=r"data.path has \d+ tokens, 0 pieces"):
        open_source(config, tmp_path, tmp_path / "cache")


def test_run_directories_are_numbered(tmp_path: Path) -> None:
    cfg = adapt_config(tmp_path)
    assert [new_rundir(cfg).name for _ in range(3)] == ["needle", "needle-2", "needle-3"]
