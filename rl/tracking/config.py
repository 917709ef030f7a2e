"""Settings of the tracking group. Plain dataclass; the Hydra schema is built from it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TrackingConfig:
    """Where a run's records go. Everything is always on disk as well, whatever ``wandb`` says."""

    wandb: str = "offline"  # offline | online | disabled
    project: str = "speciale-rl"  # wandb project
    group: str | None = None  # wandb group, for example one experiment with several seeds
    tags: list[str] = field(default_factory=list)
    table_every: int = 1  # send a trajectories table to wandb every so many steps; 0 = never
    table_rows: int = 16  # trajectories per table
    save_tokens: bool = True  # keep token ids and log-probs in trajectories/*.jsonl
    plain_every_s: float = 10.0  # least time between progress lines when the output is no terminal
