"""`rl-chat`: watch a policy act in held-out tasks, or talk to it, at the terminal.

rl-chat run=demo-0                   the run's last policy, a held-out task of its environments; then n, a number, q
rl-chat run=demo-0 env=search task=7
rl-chat run=demo-0 tasks=3           three episodes, nothing is asked
rl-chat path=pkg://rl.bases/tiny_dsa_base talk=true
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import ChatConfig


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("chat", run)


def run(cfg: ChatConfig, read: Callable[[str], str] = input) -> None:
    """The whole command. ``read(prompt)`` gives a line of the person and raises EOFError at the end of input."""
    from rich.console import Console

    from rl.commands.evaluate_settings import like_the_run, one_policy
    from rl.recipes.chat import Voice, talk, watch
    from rl.run.assemble import HELDOUT, cluster, open_composer, open_judge, open_taskset
    from rl.run.engine_refusals import check_engine
    from rl.run.preflight import check_environments, check_judge, configuration, start_renderer

    with configuration():
        directory = one_policy("rl-chat", cfg.run, cfg.path, cfg.runs_dir)
        cfg = like_the_run(cfg, cfg.run)
        renderer = start_renderer(cfg.policy, directory, cfg.rollout.retention)
        check_engine(cfg.rollout, cfg.ray, cfg.policy, directory, None)
        if not cfg.talk:
            check_judge(cfg.judge)
            composer = open_composer(cfg.reward)
            taskset = open_taskset(cfg.env, HELDOUT, cfg.seed)
            check_environments(taskset, renderer, thinking=cfg.rollout.thinking, context=cfg.rollout.context.policy)
            if cfg.task >= len(taskset):
                raise ValueError(f"task={cfg.task}: the held-out tasks are 0 to {len(taskset) - 1}")
    console = Console(highlight=False, soft_wrap=True)
    with ExitStack() as opened:
        try:
            if cfg.judge.is_worker and not cfg.talk:
                opened.enter_context(cluster(cfg.ray, 2))
                opened.enter_context(open_judge(cfg, directory))
            with console.status(f"starting the engine with {directory}"):
                voice = opened.enter_context(Voice(directory, renderer, cfg.rollout))
            if cfg.talk:
                talk(voice, cfg.system, read, console)
            else:
                watch(voice, taskset, composer, cfg.task, cfg.tasks, read, console)
        except KeyboardInterrupt:
            console.print("left.")
            sys.exit(130)


if __name__ == "__main__":
    main()
