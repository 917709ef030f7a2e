"""Where settings point: paths of the user as they are, ``pkg://`` to what a package brings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import rl
from rl.run.paths import existing_file, policy_directory, resolve


def test_a_path_of_the_user_stays_as_it_is() -> None:
    assert resolve("models/mine") == Path("models/mine")
    assert resolve("/data/mine") == Path("/data/mine")
    assert resolve(Path("a") / "b") == Path("a/b")


def test_what_a_package_brings_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bases = Path(rl.__file__).parent / "bases"
    for name in ("tiny_dsa_base", "tiny_reasoner_base"):
        assert policy_directory("base.source", f"pkg://rl.bases/{name}") == bases / name
    assert resolve("pkg://rl.bases") == bases
    labelled = existing_file("data", "pkg://rewards/data/rubric_agreement.jsonl")
    assert len(labelled.read_text().splitlines()) == 60


def test_a_package_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models" / "first").mkdir(parents=True)
    (tmp_path / "my_models" / "__init__.py").write_text("")
    (tmp_path / "my_models" / "first" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert policy_directory("policy.path", "pkg://my_models/first") == tmp_path / "my_models" / "first"
    sys.modules.pop("my_models")


@pytest.mark.parametrize("setting", ["pkg://", "pkg:///x", "pkg://no_such_package/x", "pkg://rl.types/x", "pkg://.x/y"])
def test_no_package_of_that_name(setting: str) -> None:
    with pytest.raises(ValueError, match="there is no package"):
        resolve(setting)
    with pytest.raises(ValueError, match=f"^data={setting}: there is no package"):
        existing_file("data", setting)


def test_what_is_not_there_is_said_with_field_and_value(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^policy\.path=no/such/place: no such directory; give a directory with a policy"
    ):
        policy_directory("policy.path", "no/such/place")
    with pytest.raises(ValueError, match=r"^base\.source=pkg://rl\.bases/huge: no such .*, or base=scratch$"):
        policy_directory("base.source", "pkg://rl.bases/huge")
    with pytest.raises(ValueError, match=r"^judge\.path=.*: no config\.json there"):
        policy_directory("judge.path", tmp_path)
    with pytest.raises(ValueError, match=r"^data=labels\.jsonl: no such file"):
        existing_file("data", "labels.jsonl")
