"""Every command of the documentation works as printed, in a folder with the files of the pages.

``docs_commands`` says of each how far it goes: here those that need neither Ray nor an engine go to their end, and
training, evaluation and the rest up to where one would begin. docs/commands.md is the list.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_commands import END, HERE, RULES, START, of_way, page, rule
from docs_place import make_model, make_place, make_run, working_in
from in_process import command
from shown_lines import ROOT, shown

from envs import play

# Where a command's own work would begin, by its name.
BEGINS = {
    "rl-train": "rl.recipes.main_job.main_job",
    "rl-eval": "rl.commands.evaluate.evaluate_policy",
    "rl-chat": "rl.recipes.chat.Voice",
    "rl-gateway": "rl.recipes.chat.Voice.__enter__",
    "rl-view": "rl.view.server.serve",
    "rl-pretrain": "rl.recipes.pretrain.pretrain",
    "rl-coldstart": "rl.recipes.cold_start.coldstart",
    "rl-adapt": "rl.recipes.sparse_adaptation.dense_stage",
    "rl-judge": "rl.run.assemble.cluster",
}
SMALL = {r"\bn=\d+": "n=20", r"share=0\.05": "share=0.0005", r"heldout=256": "heldout=12"}
BRIDGES = {"gym": "gymnasium", "textarena": "textarena"}


class Begun(BaseException):
    """The command has come to its own work. No Exception, which commands tell in words."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("reader")
    make_place(folder)
    make_model(folder)
    for name in ("demo-0", "demo-1", "demo-2"):
        make_run(folder, name)
    with working_in(folder):
        # What the pages build before they train in it, at another tier and size.
        words = ("mix=v32", "tier=easy", "share=0.0005", "heldout=12", "workers=0")
        assert command("envs-build", *words, "out=data/v32", cwd=folder).returncode == 0
        for out in ("search", "demo"):
            shutil.copytree(folder / "data" / "v32", folder / "data" / out)
        yield folder


def test_every_command_has_its_rule_and_the_page_says_it() -> None:
    assert (ROOT / "docs" / "commands.md").read_text() == page(), (
        "run: python tests/shared/docs_commands.py docs/commands.md"
    )
    used = {rule(one) for one in shown()}
    assert [known.pattern for known in RULES if known not in used] == []
    for known in RULES:
        assert not known.why.startswith("tests/") or (ROOT / known.why.split(" ")[0]).is_file(), known


def test_the_commands_are_counted() -> None:
    """As many as were there when they were last counted, so that none is lost unseen by a change of the pages' form."""
    ends, starts = len(of_way(END)), len(of_way(START))
    print(f"{len(shown())} commands on the pages: {ends} to their end, {starts} until something begins")
    assert ends >= 50
    assert starts >= 80


@pytest.mark.parametrize("text", sorted({one.text for one in of_way(END, HERE)}))
def test_to_its_end(text: str, place: Path) -> None:
    (shown_command, *_) = [one for one in shown() if one.text == text]
    name, *words = shown_command.words
    if name in ("python", "cat"):
        line = text.replace("python", sys.executable, 1)
        done = subprocess.run(["bash", "-ec", line], cwd=place, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    if name == "envs-play":
        assert play.main(words, lambda prompt: ":oracle") == 0
        return
    if bridge := re.search(r"envs\.bridges\.(\w+)", text):
        package = BRIDGES[bridge[1]]
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if name == "envs-build":  # the folder that it will fill may be there already, of another size
        shutil.rmtree(place / "data" / "demo", ignore_errors=True)
    small = {"envs-check": ["tasks=8"], "envs-build": ["workers=0"]}.get(name, [])
    for pattern, size in SMALL.items():
        words = [re.sub(pattern, size, word) if name == "envs-build" else word for word in words]
    done = command(name, *words, *small, cwd=place)
    assert done.returncode == 0, done.output


@pytest.mark.parametrize("text", sorted({one.text for one in of_way(START, HERE)}))
def test_until_something_begins(text: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown_command, *_) = [one for one in shown() if one.text == text]
    name, *words = shown_command.words
    if name == "make":
        name, words = "rl-train", words[1].removeprefix("ARGS=").split()

    def begin(*arguments: object, **more: object) -> None:
        raise Begun

    monkeypatch.setattr(BEGINS[name], begin)
    try:
        done = command(name, *words, cwd=place)
    except Begun:
        return
    pytest.fail(f"it ended with {done.returncode} before:\n{done.output}")
