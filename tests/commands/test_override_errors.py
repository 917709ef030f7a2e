"""A wrong override is one line that says what to write instead, on the command line and in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from in_process import command

import rl
from configs.schema import SCHEMAS
from configs.vocabulary import TOOLKITS, Word, lookup, updated
from rl.commands.hydra import composed
from rl.commands.override_errors import keys, nearest, unknown_key
from rl.commands.python import written

KNOWN = set(keys(SCHEMAS["train"]))
WORDS = [(toolkit, word) for toolkit, words in TOOLKITS.items() for word in words]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("num_generations=4", "num_generations: unknown key; did you mean group_size? (TRL's num_generations)"),
        ("beta=0.1", "beta: unknown key; did you mean objective.kl_coef? (TRL's beta)"),
        ("rollout.n=4", "rollout.n: unknown key; did you mean group_size? (verl's actor_rollout_ref.rollout.n)"),
        (
            "per_device_train_batch_size=8",
            "per_device_train_batch_size: unknown key; did you mean prompts_per_step? (TRL's "
            "per_device_train_batch_size; ours counts the tasks of a whole step)",
        ),
        (
            "critic.optim.lr=1e-5",
            "critic.optim.lr: unknown key; there is no such setting (verl's critic; there is no critic: the advantage "
            "is relative to the group's mean)",
        ),
        ("objective.clpi=0.1", "objective.clpi: unknown key; did you mean objective.clip?"),
        ("+rollout.tempratur=1", "rollout.tempratur: unknown key; did you mean rollout.temperature?"),
        ("no_such_field=1", "no_such_field: unknown key; --help lists all"),
        ("~steps", "~steps: a setting cannot be taken out; give it another value"),
        ("~nothing", "~nothing: there is no nothing to take out"),
        ("+steps=3", "+steps: steps is there already; leave out the +"),
        ("+env=search", "+env: env is chosen already; leave out the +"),
        ("objective.clip=wide", "objective.clip=wide: must be float, above 0"),
        ("steps=null", "steps=null: must be int, at least 1"),
        ("eval.ks=3", "eval.ks=3: must be list of (int, at least 1), or null"),
        ("coldstart=false", "coldstart=false: coldstart is a group; set its fields, such as coldstart.epochs=<value>"),
        ("env=tau2", "env=tau2: cannot be loaded: the package of tau2-bench is on no index"),
        ("policy=nothing", "policy=nothing: no such choice; one of deepseek_v32, hf, tiny_dsa"),
        ("env=serch", "env=serch: no such choice; did you mean search? One of agent, bfcl, built,"),
        ("a=[1", "a=[1: cannot be read; write key=value, a list as key=[1,2], "),
        ("steps", "steps: give a value, steps=<value>"),
        ("rollout.top_p=0,9", "rollout.top_p=0,9: a comma separates values of a list; write rollout.top_p=[a,b], or"),
        ("steps=${nothing}", "steps: Interpolation key 'nothing' not found"),
    ],
)
def test_one_line_that_says_what_to_do(override: str, said: str, tmp_path: Path) -> None:
    done = command("rl-train", override, cwd=tmp_path)
    assert done.returncode == 2
    assert done.output.startswith(f"configuration error: {said}")
    assert len(done.output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_all_of_it_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.errors import ConfigCompositionException

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigCompositionException, match="Could not override 'num_generations'"):
        command("rl-train", "num_generations=4", cwd=tmp_path)


def test_python_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.commands.python._check_ray", lambda: None)  # other tests of this process may hold one
    with pytest.raises(rl.ConfigurationError, match=r"^num_generations: unknown key; did you mean group_size\? \(TRL"):
        rl.train(num_generations=4)
    with pytest.raises(rl.ConfigurationError, match=r"^rollout.temprature: unknown key; did you mean rollout.temperat"):
        rl.evaluate(model="pkg://rl.bases/tiny_dsa_base", rollout={"temprature": 1})


def test_a_word_of_rl_train_in_another_command() -> None:
    assert unknown_key("num_generations", "evaluate") == (
        "num_generations: unknown key; rl-train calls it group_size (TRL's num_generations)"
    )


@pytest.mark.parametrize(("toolkit", "word"), WORDS, ids=lambda value: getattr(value, "theirs", ""))
def test_every_word_names_a_setting_that_there_is(toolkit: str, word: Word) -> None:
    assert word.ours is None or word.ours in KNOWN or word.ours.split(".")[0] in ("env", "reward")
    assert lookup(word.theirs) in WORDS
    assert lookup(word.theirs)[1].theirs == word.theirs  # type: ignore[index]
    assert word.remark


def test_the_page_is_current() -> None:
    page = (Path(__file__).parents[2] / "docs" / "other_words.md").read_text()
    assert updated(page) == page, "run: python -m configs.vocabulary docs/other_words.md"


def test_at_least_forty_words_each_once() -> None:
    assert len({word.theirs for _, word in WORDS}) == len(WORDS) >= 40


def test_our_own_keys_are_no_words_of_others() -> None:
    """A key that exists is never unknown; one that looks like it is found without the other toolkits."""
    assert nearest("learner.minibatchs", sorted(KNOWN)) == ["learner.minibatches"]
    assert nearest("zzzzzz", sorted(KNOWN)) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" ")).filter(lambda t: "${" not in t),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@given(values)
@example("A¹")
@example(["true", "Null", "nan", "it's", "a\\", ""])
def test_a_python_value_arrives_as_it_is(value: object) -> None:
    (override,) = written({"env.value": value})
    arrived = OverridesParser.create().parse_override(override).value()
    assert arrived == value
    assert type(arrived) is type(value)


def test_groups_and_choices_from_python() -> None:
    given_settings = {"steps": 4, "learner": {"lr": 1e-05}, "env": "search", "eval": {"ks": [1, 2]}, "name": None}
    assert written(given_settings) == ["steps=4", "learner.lr=1e-05", "env=search", "eval.ks=[1,2]", "name=null"]
    cfg = composed("train", written(given_settings))
    assert (cfg.steps, cfg.learner.lr, cfg.eval.ks) == (4, 1e-5, [1, 2])
    with pytest.raises(ValueError, match=r"env\.of: a object is no value of a setting"):
        written({"env": {"of": object()}})
