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

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from envs.bridges.schemas import check_call, encodable, function_schema
from envs.environment import Environment
from envs.message_forms import message_of
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
        raise NotImplementedError(f"{type(self).__name__}: a program drives its episodes, nobody acts turn by turn")


def mistakes(dialogue: Sequence[Message], said: Message) -> Counter[str]:
    """``unknown_tool`` and ``bad_arguments`` in the calls of ``said``, by the schemas that the program has shown in
    ``dialogue``. The program answers them, in words of its own. None are counted where it has shown none, or one that
    is no JSON schema."""
    from jsonschema.exceptions import SchemaError

    counts: Counter[str] = Counter()
    schemas = {schema.get("name"): schema for message in dialogue for schema in message.tools}
    for call in said.tool_calls if schemas else ():
        if (schema := schemas.get(call.name)) is None:
            counts["unknown_tool"] += 1
            continue
        try:
            checkable = function_schema(call.name, None, schema.get("parameters") or {})
            counts["bad_arguments"] += check_call(checkable, call.arguments) is not None
        except (SchemaError, TypeError, AttributeError):
            continue
    return +counts


def sendable(message: Message) -> Message:
    """``message`` as every client can read it: halves of surrogate pairs, which JSON can spell, are question marks."""
    return message_of(encodable(message.to_json()))
