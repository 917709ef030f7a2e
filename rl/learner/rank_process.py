"""A Ray actor that is one rank of those that train a policy: how it meets the others, and builds what it owns."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rl.learner.config import MeansConfig

if TYPE_CHECKING:
    from rl.learner.ranks import Ranks
    from rl.policy.api import Policy

Meeting = tuple[str, int]  # where ranks meet: address of the first one's machine, and port


class RankProcess:
    """Rank ``rank`` of ``means.ranks``. Subclasses ``build`` what they own; every method is one remote call.

    One rank alone builds at once; several meet first (``rl.learner.group``), and every call is made by all of them.
    ``timeout_s``: how long ranks wait for each other.
    """

    def __init__(self, means: MeansConfig, rank: int, timeout_s: float) -> None:
        self._means, self._rank, self._timeout_s = means, rank, timeout_s
        if means.ranks == 1:
            self.build(None)

    def build(self, ranks: Ranks | None) -> None:
        """Take up this rank's share of the policy. ``ranks``: the others, where there are any."""
        raise NotImplementedError

    def policy(self, described: Any) -> Policy:
        """What ``described`` says (``rl.policy.loading.build_policy``): whole on the first rank, on its GPU when it is
        alone; the others' may be empty."""
        import torch  # in the actor only: the driver needs the handle, not torch

        from rl.policy.loading import build_policy

        built = build_policy(described, empty=self._rank > 0)
        if self._means.ranks == 1 and torch.cuda.is_available():
            built.module.to("cuda")
        return built

    def meet(self) -> Meeting:
        """Open the meeting of the ranks, in the first one's process."""
        from ray.util import get_node_ip_address

        from rl.policy.meeting import open_meeting

        host = get_node_ip_address()
        self._store = open_meeting(host, self._means.ranks, self._timeout_s)
        return host, self._store.port

    def join(self, meeting: Meeting) -> None:
        """Meet the other ranks, and take up this one's share of the policy."""
        from ray.util import get_node_ip_address

        from rl.learner.ranks import Place, Ranks
        from rl.policy.meeting import enter_meeting

        means = self._means
        store = enter_meeting(*meeting, means.ranks, self._timeout_s)
        shards = means.shard_ranks or means.ranks
        place = Place(self._rank, means.ranks, shards, means.expert_parallel, means.context_parallel)
        self.build(Ranks(place, store, get_node_ip_address(), self._timeout_s))

    def pid(self) -> int:
        """Of this process."""
        return os.getpid()
