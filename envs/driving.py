"""An episode that a program drives: not the policy and an environment in turn, but an agent with a loop of its own.

    class MyEnvironment(DrivingEnvironment):
        def drive(self, endpoint):                                  # or async def
            client = openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key)
            self.result = my_agent(client, self.task)               # asks as often as it likes

        def score(self, episode):
            return {"outcome": float(self.result == self.task.answer)}

The endpoint is the policy (``rl.rollout.gateway``). What the program sends back is found in what was sampled, so its
tokens are trained on as for any environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from envs.environment import Environment
from envs.types import Message, StepResult


@dataclass(frozen=True)
class Endpoint:
    """Where the policy answers for one episode, in OpenAI's form; the key is in ``base_url`` too.

    ``posted``: scores that the program has posted to ``{base_url}/reward`` so far, "outcome" among them.
    """

    base_url: str
    api_key: str
    posted: list[dict[str, float]] = field(default_factory=list)


class DrivingEnvironment(Environment):
    """``drive`` runs the program to its end, ``score`` follows in the same thread."""

    def drive(self, endpoint: Endpoint) -> Any:
        """Run the program; a coroutine is awaited. When the episode is over by its limits (turns, time, tokens) the
        policy answers no more, and requests fail.

        What it raises after the policy has spoken counts as the policy's doing: the episode scores 0.
        InfrastructureError is for what is not; then, as for what it raises before, the episode is masked.
        """
        raise NotImplementedError(f"{type(self).__name__}: define drive()")

    def step(self, action: Message) -> StepResult:
        """Never called: there are no turns."""
        raise NotImplementedError(
            f"{type(self).__name__}: a program drives its episodes; they need a policy at an endpoint (rl-train, "
            "rl-eval, rl-chat), nothing can act in them turn by turn"
        )
