"""`rl-adapt`: sparse attention for a dense checkpoint (``rl.recipes.sparse_adaptation``).

rl-adapt policy.path=<dense checkpoint> data.path=<long documents>.jsonl      the paper's figures
rl-adapt experiment=needle                                                    tiny, makes its own dense policy
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import AdaptConfig


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("adapt", run)


def run(cfg: AdaptConfig) -> None:
    """All of it (``rl.recipes.sparse_adaptation.adapt``)."""
    from rl.recipes.sparse_adaptation import adapt

    adapt(cfg)


if __name__ == "__main__":
    main()
