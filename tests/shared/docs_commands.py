"""What the tests do with every command that the documentation shows; makes docs/commands.md.

    python tests/shared/docs_commands.py docs/commands.md

``END``: run to its end, as printed but for the sizes. ``START``: as printed, through everything that happens before a
run has a folder (settings, environments, rewards, models, data sets), up to where training or an engine would begin.
``OUT``: not run, with the reason. The first rule whose pattern is in a command decides.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from shown_lines import PAGES, ROOT, Shown, shown

END, START, OUT = "end", "start", "out"
HERE = "tests/docs/test_commands_run.py"
JOBS = "tests/docs/test_commands_to_their_end.py"
TUTORIAL = "tests/docs/test_tutorial.py"
FOREIGN = "tests/docs/test_foreign_page.py"
CERTIFICATES = "tests/docs/test_certificates_page.py"


@dataclass(frozen=True)
class Rule:
    """``why``: the test that runs it, or why none does."""

    pattern: str
    way: str
    why: str


RULES = (
    Rule(r"^make train$|^rl-train$", END, JOBS),
    Rule(r"^make (?!train)|^source |^\S*pip |^python -m venv", OUT,
         "makes or checks the environment that the tests run in; CI does it"),
    Rule(r"^(export OPENAI|curl )", OUT, "talks to the gateway above it; tests/recipes/test_serve.py does"),
    Rule(r"pytest( -m slow| tests/)", OUT, "the tests themselves"),
    Rule(r"python -m benchmarks\.", OUT, "minutes to hours; docs/results.md has what they gave"),
    Rule(r"^\S*python examples/own_model", END, "tests/examples/test_own_model.py"),
    Rule(r"^\S*python examples/your_agent", END, "tests/examples/test_your_agent.py"),
    Rule(r"^\S*python examples/library_agent", END, "tests/examples/test_library_agent.py"),
    Rule(r"^\S*python examples/grpo_loop", END, "tests/examples/test_grpo_loop.py"),
    Rule(r"^git clone", OUT, "fetches a repository; tests/foreign makes them on the spot"),
    Rule(r"^envs-check (swe_rows|terminal_tasks|bfcl)", END, FOREIGN),
    Rule(r"^rl-train env=(swe_rows|terminal_tasks|bfcl)", START, FOREIGN),
    Rule(r"OpenEnvTaskset|VerifiersTaskset", OUT, "another library in a Python of its own: tests marked bridges"),
    Rule(r"McpTaskset", END, "tests/envs/test_bridges_mcp.py"),
    Rule(r"^envs-build (family=(search|agent|interpreter|code) n|mix=v32 .*share=0\.01)", OUT,
         "minutes to hours of the hard tiers; tests/envs/test_build.py builds small sets"),
    Rule(r"^envs-build family=releases", OUT,
         "fetches packages; tests/envs/test_code_releases.py makes tasks of packages made on the spot"),
    Rule(r"…|run=ties|runs/speciale", OUT, "a run of minutes that a command above it makes"),
    Rule(r"^python -m envs\.sandbox", END, "tests/sandbox/test_sandbox_selfcheck.py"),
    Rule(r"^rl-compare 'sources=\[docs|^rl-doctor rollouts=", END, HERE),
    Rule(r"my_store|MyStore|^cd |^mkdir |^echo |settings env=store|rl-chat run=store", END, TUTORIAL),
    Rule(r"certificate=demand|waive=", END, CERTIFICATES),
    Rule(r"^rl-train env=dataset env\.path=questions|_target_=(warehouse|guess)\.", END, JOBS),
    Rule(r"^rl-(eval|chat) run=demo-0$|^rl-doctor run=demo-0|^rl-compare|^rl-export path=runs/demo-0", END, JOBS),
    Rule(r"^rl-export path=IN", OUT, "a model that the reader brings; test_checkpoint_export.py makes one"),
    Rule(r"^rl-train --|^envs-(check|play|init|build)|^cat |^python -m configs\.reference", END, HERE),
    Rule(r"^rl-train plan=true$|plan=true .*(policy=hf|rollout\.weights|rollout\.env_workers)", END, HERE),
    Rule(r"^(sbatch|kubectl|docker) ", OUT, "needs Slurm, Kubernetes or Docker; tests/docs/test_cluster_files.py"),
    Rule(r"^make train ARGS|^rl-(train|eval|chat|gateway|view|judge|pretrain|coldstart|adapt)\b", START, HERE),
)  # fmt: skip


def rule(command: Shown) -> Rule:
    """Raises LookupError for a command that no rule knows."""
    for known in RULES:
        if re.search(known.pattern, command.text):
            return known
    raise LookupError(f"{command.page}: nothing is said about {command.text!r} in tests/shared/docs_commands.py")


def of_way(way: str, why: str | None = None) -> list[Shown]:
    return [command for command in shown() if (found := rule(command)).way == way and why in (None, found.why)]


def page() -> str:
    """The text of docs/commands.md."""
    every = shown()
    ways = Counter(rule(command).way for command in every)
    pages = len({command.page for command in every})
    lines = [
        "# What the tests do with the commands of these pages",
        "",
        "<!-- made by `python tests/shared/docs_commands.py docs/commands.md`; a test holds it to the pages -->",
        "",
        *textwrap.wrap(
            f"{len(every)} commands in blocks of shell, on {pages} of {len(PAGES)} pages; one that two pages show "
            f"counts twice. {ways[END]} are run to their end: training at the size of `experiment=smoke` "
            "(`configs/experiment/smoke.yaml`; `rl-train` alone smaller still and with `base=scratch`: "
            "`tests/shared/train_runs.py`), evaluation of one task a family, `envs-check` with `tasks=8`, "
            "`envs-build` with 20 tasks (the tutorial and the three levels of environments.md with `pytest -m slow`). "
            f"{ways[START]} are run as printed up to where training or an engine begins: settings, environments, "
            f"rewards, models and data sets are opened. {ways[OUT]} are not run.",
            120,
            break_on_hyphens=False,
        ),
    ]
    titles = {END: "Run to their end", START: "Run until training or an engine begins", OUT: "Not run"}
    for way, title in titles.items():
        lines += ["", f"## {title}: {ways[way]}"]
        for why in dict.fromkeys(known.why for known in RULES if known.way == way):
            found = of_way(way, why)
            told = f"`{why}`" if why.startswith("tests/") else f"{why[0].upper()}{why[1:]}"
            lines += ["", f"{told}: {len(found)}", "", "```text"]
            lines += dict.fromkeys(textwrap.shorten(c.text.splitlines()[0], 116, placeholder=" …") for c in found)
            lines += ["```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / Path(sys.argv[1])).write_text(page())
