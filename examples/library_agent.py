"""An agent of a library from PyPI, trained as it is: the order desk of your_agent.py as a pydantic-ai agent.

    pip install -e '.[agents]'               # pydantic-ai 2.68
    python examples/library_agent.py         # about ten minutes on two busy cores; --seed 0, --steps 20

The loop, the messages and what the policy is told about its mistakes are the library's.
"""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent, Tool
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from your_agent import DEEDS, ORDER, settings, train


async def agent(base_url: str, api_key: str, row: dict[str, Any]) -> float:
    """One episode: an errand; the reward is whether just the right thing was done."""
    done: list[str] = []

    def tool(name: str) -> Tool[None]:
        def act(order_id: int) -> str:
            done.append(f"{name} {order_id}")
            return "ok"

        return Tool.from_schema(act, name, f"{DEEDS[name]} an order.", ORDER)

    # As for any server but OpenAI's own: schemas are shown as they are. The tiny policy has never seen another form.
    profile = OpenAIModelProfile(json_schema_transformer=None, openai_supports_strict_tool_definition=False)
    model = OpenAIChatModel("policy", provider=OpenAIProvider(base_url=base_url, api_key=api_key), profile=profile)
    async with Agent(model, instructions="Do it with the tools.", tools=[tool(name) for name in DEEDS]) as desk:
        await desk.run(row["prompt"])
    return float(done == [f"{row['tool']} {row['order_id']}"])


def main() -> None:
    episodes = train(agent, settings().parse_args()).trajectories()
    answers, segments = sum(t["turns"] for t in episodes), sum(len(t["segments"]) for t in episodes)
    rewritten = sum(t["counts"].get("history_rewritten", 0) for t in episodes)
    print(f"{len(episodes)} held-out episodes: {answers} answers, {segments} segments, {rewritten} rewritten histories")


if __name__ == "__main__":
    main()
