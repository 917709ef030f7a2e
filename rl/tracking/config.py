"""Settings of the tracking group. Plain dataclass; the Hydra schema is built from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from rl.bounds import Bounded, NonNegativeFloat, NonNegativeInt, OneOf, PositiveInt

WANDB_MODES = ("offline", "online", "disabled")


@dataclass
class TrackingConfig(Bounded):
    """Where a run's records go. Everything is always on disk as well, whatever ``wandb`` says."""

    section: ClassVar[str] = "tracking"

    wandb: Annotated[str, OneOf(WANDB_MODES)] = "offline"  # offline | online | disabled
    project: str = "speciale-rl"  # wandb project
    group: str | None = None  # wandb group, for example one experiment with several seeds
    tags: list[str] = field(default_factory=list)  # wandb tags
    table_every: NonNegativeInt = 1  # send a trajectories table to wandb every so many steps; 0 = never
    table_rows: PositiveInt = 16  # trajectories per table
    save_tokens: bool = True  # keep token ids and log-probs in trajectories/*.jsonl
    plain_every_s: NonNegativeFloat = 10.0  # least time between progress lines when the output is no terminal
    # For rl-doctor attribute=true: every n steps, and at the last step, store the batch with its replay records and the
    # policy's weights before the update. 0 = never.
    save_batch_every: NonNegativeInt = 20
    # Stored batches that stay, the newest. Each holds a whole copy of the weights: mind the disk with large policies.
    keep_batches: PositiveInt = 2

    def saves_batch(self, step: int, last: int) -> bool:
        """Whether the batch of ``step`` is stored in a run of ``last`` steps."""
        return self.save_batch_every > 0 and (step % self.save_batch_every == 0 or step == last)
