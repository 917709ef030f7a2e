"""`rl-gateway`: a policy behind an OpenAI-compatible endpoint, for agents outside: how well do they do with it?

rl-gateway run=demo-0                           prints a base URL and a key, serves until Ctrl-C
rl-gateway run=demo-0 rollout.max_turns=30 rollout.episode_s=900
rl-gateway path=models/mine policy=hf port=0 episodes=100

An episode is opened by POST /v1/episodes, or by its name in the base URL (docs/your_agent.md). Every one is recorded in
the folder runs/<name>, as rollouts are, and its posted reward evaluated.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import GatewayConfig

TURNS = 16  # of an episode, where no limit is set: nobody knows what an agent needs
_KEY = re.compile(r"[\w.~+-]{16,}", re.ASCII)


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("gateway", run)


def run(cfg: GatewayConfig) -> None:
    """The whole command."""
    from omegaconf import OmegaConf
    from rich.console import Console

    from configs.schema import EvalConfig
    from rl.commands.evaluate_settings import like_the_run, one_policy
    from rl.recipes.chat import Voice
    from rl.recipes.serve import EVALUATION, Book, serve
    from rl.run.assemble import cluster, open_composer, open_judge
    from rl.run.engine_refusals import check_engine
    from rl.run.preflight import check_judge, configuration, start_renderer
    from rl.tracking.evaluation import eval_summary
    from rl.tracking.rundir import RunDir
    from rl.tracking.summary import summary_table

    with configuration():
        directory = one_policy("rl-gateway", cfg.run, cfg.path, cfg.runs_dir)
        key = key_of(cfg.key_env)
        check_address(cfg.host, cfg.port)
        cfg = like_the_run(cfg, cfg.run)
        check_context(cfg.rollout.context.policy)
        if cfg.rollout.max_turns is None:
            cfg.rollout.max_turns = TURNS
        renderer = start_renderer(cfg.policy, directory, cfg.rollout.retention)
        check_engine(cfg.rollout, cfg.ray, cfg.policy, directory, None)
        check_judge(cfg.judge)
        composer = open_composer(cfg.reward)
    console = Console(highlight=False, soft_wrap=True)

    def announce(address: str) -> None:
        print(f"policy {directory}, episodes are recorded in {rundir.path}  (Ctrl-C ends)")
        print(f"OPENAI_BASE_URL={address}/episodes/NAME/v1   (NAME: a word of yours for each episode)")
        shown = key if cfg.key_env not in os.environ else f"the value of {cfg.key_env}"
        print(f"OPENAI_API_KEY={shown}", flush=True)

    with ExitStack() as opened:
        if cfg.judge.is_worker:
            opened.enter_context(cluster(cfg.ray, 2))
            opened.enter_context(open_judge(cfg, directory))
        with console.status(f"starting the engine with {directory}"):
            voice = opened.enter_context(Voice(directory, renderer, cfg.rollout))
        rundir = RunDir.new(cfg.runs_dir, cfg.name)
        rundir.write_config(OmegaConf.to_yaml(OmegaConf.create(asdict(cfg))))
        evaluate = lambda found, k: eval_summary(found, EvalConfig(k=k, confidence=cfg.confidence))  # noqa: E731
        book = Book(rundir, cfg, str(directory), composer.describe(), evaluate)
        try:
            serve(voice, composer, cfg, key, book, announce)
        finally:
            summary = book.finish()
            composer.close()
            if EVALUATION in summary:
                Console(width=None if sys.stdout.isatty() else 120).print(summary_table(summary, str(rundir.report)))
            else:
                print(f"no episode has a reward: nothing is evaluated; what there is lies in {rundir.path}")


def key_of(variable: str) -> str:
    """The key in the environment ``variable``, else one that is drawn. Raises ValueError for one that is easy to guess
    or has no place in a URL."""
    key = os.environ.get(variable)
    if key is None:
        return secrets.token_hex(16)
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"key_env={variable}: the key in it must be 16 or more letters, digits and . ~ + _ -; unset it to have one "
            "drawn"
        )
    return key


def check_address(host: str, port: int) -> None:
    """Raises ValueError when nobody can listen there."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ValueError(
            f"host={host} port={port}: {error.strerror}; give another, or port=0 for a free one"
        ) from error


def check_context(policy: str) -> None:
    """Raises ValueError for a context policy that would rewrite what agents send."""
    if policy not in ("none", "parallel_fewest_step"):
        raise ValueError(f"rollout.context.policy={policy}: an agent keeps its own history; use none")


if __name__ == "__main__":
    main()
