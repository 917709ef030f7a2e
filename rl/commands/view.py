"""`rl-view`: the runs of a directory as pages in your browser: curves, and every rollout to be found and read.

    rl-view                              runs/, on http://127.0.0.1:8421/
    rl-view runs_dir=elsewhere port=0    another directory, a free port

It listens on the loopback address only and writes nothing (docs/view.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import ViewConfig


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("view", run)


def run(cfg: ViewConfig) -> None:
    from pathlib import Path

    from rl.run.preflight import configuration
    from rl.view.server import listen, serve

    with configuration():
        runs_dir = Path(cfg.runs_dir)
        if runs_dir.exists() and not runs_dir.is_dir():
            raise ValueError(f"runs_dir={cfg.runs_dir}: is a file; give the directory of the runs")
        listening = listen(cfg.port)
    serve(runs_dir, listening, browser=cfg.open)


if __name__ == "__main__":
    main()
