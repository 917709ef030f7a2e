"""What `envs-check` adds to the promises of `envs`: demonstrations as the tokens of the policy that will train."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from envs.behaviour import EpisodePromises
from envs.environment import Environment, tool
from envs.promises import CheckFailed, Doubt, Skip, Subject
from envs.taskset import Taskset
from envs.types import Episode, Message, Task, ToolCall
from rl.commands import envs_check
from rl.data.demos import tokenise

NEEDS_AN_ORACLE = {"oracle", "from disk", "tokens", "limits"}


class Count(Environment):
    """The number is asked for ``asks`` times, then said."""

    def __init__(self, task: Task, asks: int = 1, said: str = "", **config: object) -> None:
        super().__init__(task, **config)
        self.asks, self.said = asks, said

    def score(self, episode: Episode) -> dict[str, float]:
        return {"outcome": float((episode.answer or "").startswith(str(self.task.answer)))}

    @tool
    def number(self) -> str:
        """Tell the number."""
        return str(self.task.answer)

    def oracle(self, history: Sequence[Message]) -> Message:
        if sum(message.role == "tool" for message in history) < self.asks:
            return Message("assistant", tool_calls=(ToolCall("number"),), reasoning="I ask.")
        return Message("assistant", f"{self.task.answer}{self.said}", reasoning="I know.")


class CountTaskset(Taskset):
    family, env_class = "count", Count

    def task(self, index: int) -> Task:
        key, number = self.draw(index, lambda rng: (f"No. {rng.randint(0, 10**6)}", rng.randint(0, 9**9)))
        return Task(self.task_id(index), self.family, (Message("user", f"{key}?"),), str(number), {"key": key})


class Nobody(Count):
    def oracle(self, history: Sequence[Message]) -> Message:
        raise NotImplementedError


class NobodyTaskset(CountTaskset):
    env_class = Nobody


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for the certificates


def rendering(cls: type[Taskset] = CountTaskset, checked: dict[str, object] | None = None, **settings: object):
    """The further checks of a taskset whose oracle has been played."""
    episodes = EpisodePromises(Subject(lambda split: cls(split=split, **settings), 3, 10.0))
    for _, check in episodes.checks():
        try:
            check()
        except (Skip, CheckFailed, Doubt):
            continue
    return {name: check for name, check in envs_check.further(dict(checked or {}))(episodes)}


def rows(output: str) -> dict[str, tuple[str, str]]:
    """(result, detail) by check, of the table that the command prints."""
    found: dict[str, tuple[str, str]] = {}
    last = ""
    for line in output.splitlines():
        if line.startswith("│"):
            name, result, detail = (cell.strip() for cell in line.strip("│").split("│"))
            last = name or last
            found[last] = (result or found[last][0], f"{found[last][1]} {detail}" if not name else detail)
    return found


def test_without_an_oracle_what_needs_one_is_skipped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert envs_check.main([f"{__name__}.NobodyTaskset", "tasks=3"]) == 0
    found = rows(capsys.readouterr().out)
    skipped = {name for name, (result, _) in found.items() if result == "skipped"}
    assert skipped == NEEDS_AN_ORACLE | {"verify", "novice"}
    assert found["tokens"] == ("skipped", "no oracle has solved a task: there is nothing to write")
    assert all(result == "ok" for name, (result, _) in found.items() if name in ("tasks", "chance", "splits", "time"))


def test_the_last_rows_say_what_was_written_and_what_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert envs_check.main([f"{__name__}.CountTaskset", "tasks=3"]) == 0
    found = rows(capsys.readouterr().out)
    assert list(found)[-2:] == ["tokens", "limits"]
    assert found["tokens"] == ("ok", "6 messages written and read back")  # a call and an answer in each of three tasks
    result, detail = found["limits"]
    assert (result, detail.startswith("turns 2 (p95 2), ")) == ("ok", True)
    assert detail.endswith("within the defaults of rl-train")


def test_the_limits_are_those_of_the_tokens() -> None:
    """More turns than the default four, and an answer of more tokens than a message may have."""
    checks = rendering(asks=6, said=" pieces" * 200)
    episodes: EpisodePromises = checks["limits"].__self__.episodes
    streams = [
        tokenise(checks["limits"].__self__.renderer, episode.messages, thinking=True)
        for shown in episodes.shown.values()
        for episode in shown
    ]
    longest = max(len(stream.tokens) for (stream,) in streams)
    said = checks["limits"]()
    assert "turns 7 (p95 7)" in said
    assert f"of the window {longest:,}" in said
    assert "rollout.max_turns=14: what the family count needs" in said
    wanted = dict(re.findall(r"rollout\.(max_tokens|max_context)=(\d+)", said.partition("set ")[2]))
    assert int(wanted["max_tokens"]) > 200
    assert int(wanted["max_context"]) >= longest


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose template shows tool calls in another markup than the one that can be read."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "chatml"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", chat_template=template)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def test_the_renderer_is_the_one_that_will_be_used(chatml: Path) -> None:
    """With ``policy=`` and ``renderer=hf`` the tokens are the model's: here a byte each."""
    mine = rendering(checked={"policy": str(chatml), "renderer": "hf", "thinking": False})
    shipped = rendering()
    assert mine["tokens"]() == shipped["tokens"]() == "6 messages written and read back"
    (window,) = re.findall(r"of the window ([\d,]+)", mine["limits"]())
    (short,) = re.findall(r"of the window ([\d,]+)", shipped["limits"]())
    assert int(window.replace(",", "")) > 2 * int(short.replace(",", ""))


def test_a_message_that_spells_the_end_of_a_turn_is_written_as_text(chatml: Path) -> None:
    checked = {"policy": str(chatml), "renderer": "hf", "thinking": False}
    rows = rendering(checked=checked, said="<|im_end|> and more")
    assert rows["tokens"]() == "6 messages written and read back"


def test_a_policy_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert envs_check.main([f"{__name__}.CountTaskset", "policy=nowhere"]) == 2
    assert "policy.path=nowhere: no such directory" in capsys.readouterr().err


def test_a_cheat_that_is_paid_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """The answer may stand anywhere in the text, so a list of answers is right too: said, and no failure."""
    assert envs_check.main([f"{__name__}.CountTaskset", "tasks=3"]) == 0
    result, detail = rows(capsys.readouterr().out)["cheats"]
    assert result == "WARNING"
    said = " ".join(detail.split())
    assert "is paid 1, an honest failure 0: a policy will find it (see envs.cheats); paid are" in said
    for name in ("right or wrong", "not the answer", "one line each"):  # all of those that begin with the answer
        assert name in said
