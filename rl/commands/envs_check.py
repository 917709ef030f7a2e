"""`envs-check`: does a taskset keep its promises, and do its episodes fit the policy that will train in it?

envs-check search
envs-check my_module.MyTaskset tasks=100 levels=3
envs-check my_module.MyTaskset policy=models/mine renderer=hf thinking=false

The promises are in ``envs.check``, which knows nothing of tokens. Here its demonstrations are written in the policy's
chat format, tokenised and read back: the last row says how many turns and tokens they take, and what to set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.behaviour import EpisodePromises
from envs.check import More
from envs.check import main as check
from envs.promises import Check, CheckFailed, Skip

if TYPE_CHECKING:
    from envs.types import Episode
    from rl.chat.renderer import Renderer
    from rl.rollout.config import RolloutConfig

SETTINGS = ", policy=<directory> (whose tokenizer; default: the shipped base), renderer=v32|hf, thinking=true|false"


def main(argv: Sequence[str] | None = None) -> int:
    """Console entry point."""
    return check(argv, further, SETTINGS)


def further(settings: dict[str, Any]) -> More:
    """The checks that need a policy's tokenizer; takes their settings out of ``settings``. Raises ValueError."""
    from configs.schema import BaseConfig, PolicyConfig
    from rl.rollout.config import RolloutConfig
    from rl.run.preflight import start_directory, start_renderer

    path, kind = settings.pop("policy", None), settings.pop("renderer", "v32")
    rollout = RolloutConfig(thinking=bool(settings.pop("thinking", True)))
    policy = PolicyConfig(path=path, renderer=str(kind))
    directory = start_directory(policy, BaseConfig().source)
    assert isinstance(directory, Path)
    renderer = start_renderer(policy, directory, rollout.retention)
    return lambda episodes: Rendering(episodes, renderer, rollout).checks()


@dataclass
class Rendering:
    """Checks of the demonstrations as tokens."""

    episodes: EpisodePromises
    renderer: Renderer
    rollout: RolloutConfig

    def checks(self) -> list[Check]:
        return [("tokens", self.demonstrations_can_be_written), ("limits", self.rollouts_have_room)]

    def demonstrations_can_be_written(self) -> str:
        """Each message of a demonstrator as a policy would sample it, and read back as the same message."""
        from rl.data.demos import thought, written

        count = 0
        for episode in self._episodes():
            spoken = [i for i, message in enumerate(episode.messages) if message.role == "assistant"]
            for i in spoken[len(spoken) - episode.turns :]:
                said = thought(episode.messages[i]) if self.rollout.thinking else episode.messages[i]
                try:
                    tokens = written(self.renderer, episode.messages[:i], said, thinking=self.rollout.thinking)
                except ValueError as error:
                    raise CheckFailed(f"{episode.task.id}: {error}") from error
                tools = [tool for message in episode.messages for tool in message.tools]
                read = self.renderer.parse(tokens, thinking=self.rollout.thinking, ended=True, tools=tools)
                if (read.content, read.tool_calls) != (said.content, said.tool_calls) or read.parse_error:
                    raise CheckFailed(
                        f"{episode.task.id}: message {i} is not read back as it was written: {said.to_json()} became "
                        f"{read.to_json()}"
                    )
                count += 1
        return f"{count} messages written and read back"

    def rollouts_have_room(self) -> str:
        """What the demonstrations need, and the settings that give it."""
        from rl.data.demos import tokenise
        from rl.data.fit import Needs
        from rl.run.turn_limit import settle_turns

        streams = [
            tokenise(self.renderer, e.messages, thinking=self.rollout.thinking, turns=e.turns) for e in self._episodes()
        ]
        needs = Needs.of(streams)
        said = "; ".join(settle_turns(self.rollout, self.episodes.subject.taskset))
        settings = needs.settings(self.rollout)
        fix = f"set {' '.join(settings)}" if settings else "within the defaults of rl-train"
        return "; ".join(part for part in (needs.words(), said, fix) if part)

    def _episodes(self) -> list[Episode]:
        shown = [episode for episodes in self.episodes.shown.values() for episode in episodes]
        if not shown:
            raise Skip("no oracle has solved a task: there is nothing to write")
        return shown


if __name__ == "__main__":
    sys.exit(main())
