"""EnvWorker: a Ray actor that plays episodes and has no engine: tokens out, tokens back, by calls of rollout workers'.

For environments whose sandboxes need cores where no GPU is, and in a number of their own (``rollout.env_workers``).
Everything but the sampling is here: reset, chat format, context, tools, programs that drive, scores, rewards. What
comes back for a request is all that an engine gives (log-probs, versions, recorded choices), so a trajectory is the one
that a rollout worker would have made.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from rl.rollout.engine_thread import EngineDied
from rl.rollout.orders import GroupSpec
from rl.rollout.player import Player, in_parts
from rl.types import Group

if TYPE_CHECKING:
    from rl.rollout.engine_api import GenerateRequest, Generation


class EnvWorker(Player):
    """See the module. All methods are coroutines; calls may overlap."""

    async def ready(self) -> dict[str, float]:
        """Return when episodes can begin. Raises ValueError where this machine does not see the policy's folder."""
        self.renderer  # noqa: B018 (opened here, as a first episode would wait for it)
        return self.played()

    async def run_group(self, spec: GroupSpec, engine: Any) -> Group:
        """Play the rollouts of ``spec``; ``engine``: the rollout worker that samples. Environment failures are in the
        trajectories. Raises EngineDied: that one is gone."""
        import ray

        me = str(ray.get_runtime_context().get_actor_id())
        return await self.play(spec, partial(_ask, engine, me))

    async def hand_over(self, spec: GroupSpec, engine: Any) -> tuple[Any, ...]:
        """``run_group`` in parts."""
        return in_parts(spec, await self.run_group(spec, engine))

    async def stats(self) -> dict[str, float]:
        """What it is busy with."""
        return self.played()


async def _ask(engine: Any, me: str, request: GenerateRequest) -> Generation:
    import ray
    from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

    ref = engine.generate.remote(me, request)
    try:
        generation: Generation = await ref
    except asyncio.CancelledError:
        ray.cancel(ref)  # the engine gives the request up
        raise
    except (RayActorError, ObjectLostError) as error:
        raise EngineDied(f"the rollout worker that samples is gone: {error}") from error
    except RayTaskError as error:
        raise error.cause from error
    return generation
