"""The README.md of a policy that a run leaves: what it was trained from, on what and how, held-out results before and
after, and how to load it.

All figures are those of summary.json. Directories of this machine are named without their path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.url_secrets import without_credentials
from rl.run.hub import is_hub_id
from rl.tracking.rundir import write_atomic
from rl.tracking.summary import EVALUATION_COLUMNS, evaluation_rows

if TYPE_CHECKING:
    from configs.schema import TrainConfig

PACKAGE = "speciale-rl"
CARD = "README.md"


def write_model_card(directory: Path, cfg: TrainConfig, summary: Mapping[str, Any], plan: str) -> Path:
    """The card of the policy in ``directory``. ``plan``: the run's steps and batch sizes in one line."""
    from huggingface_hub import ModelCard, ModelCardData

    base = cfg.policy.path
    data = ModelCardData(
        base_model=base if base is not None and is_hub_id(base) and not Path(base).exists() else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["reinforcement-learning", PACKAGE],
    )
    body = "\n".join(_lines(directory, cfg, summary, plan))
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{without_credentials(body)}\n")
    write_atomic(directory / CARD, str(card))
    return directory / CARD


def _lines(directory: Path, cfg: TrainConfig, summary: Mapping[str, Any], plan: str) -> Iterator[str]:
    name = (cfg.push_to_hub or str(summary.get("run", directory.parent.name))).rpartition("/")[2]
    yield f"# {name}"
    yield ""
    yield f"A language model trained by reinforcement learning (GRPO) with `{PACKAGE}` {_version(PACKAGE)}."
    yield "**Licence: that of the base model**; nothing is added to it here."
    yield ""
    yield f"- **Base model:** {_base(cfg)}"
    yield f"- **Environment:** `{cfg.env.get('_target_', 'unknown')}`"
    yield f"- **Recipe:** {plan}; learning rate {cfg.learner.lr:g}; {summary.get('steps', 'unknown')} steps were made"
    yield f"- **Cold start:** {'yes' if cfg.coldstart.enabled else 'no'}"
    thinks = "with thinking" if cfg.rollout.thinking else "without thinking"
    yield f"- **Rollouts:** {thinks}, temperature {cfg.rollout.temperature:g}, top-p {cfg.rollout.top_p:g}"
    yield f"- **Seed:** {cfg.seed}"
    yield ""
    yield "```"
    yield str(summary.get("reward", "")).strip()
    yield "```"
    yield ""
    yield "## Held-out evaluation"
    yield ""
    yield from _evaluation(summary)
    yield "## How to load it"
    yield ""
    yield from _loading(directory, cfg)


def _base(cfg: TrainConfig) -> str:
    if (path := cfg.policy.path) is not None:
        return (
            f"`{path}`"
            if is_hub_id(path) and not Path(path).exists()
            else f"a model in a directory `{Path(path).name}`"
        )
    if cfg.base.source == "scratch":
        return f"pre-trained by the run itself (`{cfg.policy.preset}`)"
    return f"`{cfg.base.source}`" if cfg.base.source.startswith("pkg://") else f"`{Path(cfg.base.source).name}`"


def _evaluation(summary: Mapping[str, Any]) -> Iterator[str]:
    rows = evaluation_rows(summary)
    if not rows:
        yield "The run has none."
        yield ""
        return
    yield "Mean outcome over tasks that were not trained on, ± standard error, before and after the training."
    yield ""
    yield f"| {' | '.join(EVALUATION_COLUMNS)} |"
    yield "|" + "---|" * len(EVALUATION_COLUMNS)
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _loading(directory: Path, cfg: TrainConfig) -> Iterator[str]:
    where = cfg.push_to_hub or directory.name
    ours = cfg.policy.preset != "hf"
    key = "thinking" if cfg.policy.renderer == "v32" else "enable_thinking"
    thinking = f"{key}={cfg.rollout.thinking}"
    if ours:
        yield f"vLLM needs the package `{PACKAGE}` next to it: the architecture is a plug-in of it."
        yield ""
    yield "```python"
    yield "from vllm import LLM"
    yield ""
    yield f'model = LLM("{where}", dtype="{cfg.rollout.dtype}", max_model_len={cfg.rollout.max_context})'
    yield 'messages = [{"role": "user", "content": "Hi"}]'
    yield f'print(model.chat(messages, chat_template_kwargs={{"{key}": {cfg.rollout.thinking}}})[0].outputs[0].text)'
    yield "```"
    yield ""
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield f'tokenizer = AutoTokenizer.from_pretrained("{where}")'
    yield f'model = AutoModelForCausalLM.from_pretrained("{where}")'
    yield 'messages = [{"role": "user", "content": "Hi"}]'
    yield "inputs = tokenizer.apply_chat_template("
    yield f'    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, {thinking}'
    yield ")"
    yield "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))"
    yield "```"
    yield ""
    versions = ", ".join(f"{name} {_version(name)}" for name in (PACKAGE, "transformers", "torch"))
    yield f"Written by {versions}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return "(not installed)"
