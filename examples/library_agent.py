"""Agents of two libraries from PyPI, trained as they are, at the order desk of your_agent.py: pydantic-ai, smolagents.

    pip install -e '.[agents]'                                # both libraries
    python examples/library_agent.py                          # minutes on two cores; --seed 0, --steps 20
    python examples/library_agent.py --library smolagents

The tools are plain functions. The library makes schemas of them, calls them, and tells the policy about its mistakes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from your_agent import settings, train


def desk(done: list[str]) -> list[Callable[[int], str]]:
    """Three tools; what is done with them is written to ``done``."""

    def ship_order(order_id: int) -> str:
        """Ship an order.

        Args:
            order_id: Its number.
        """
        done.append(f"ship_order {order_id}")
        return "ok"

    def cancel_order(order_id: int) -> str:
        """Cancel an order.

        Args:
            order_id: Its number.
        """
        done.append(f"cancel_order {order_id}")
        return "ok"

    def refund_order(order_id: int) -> str:
        """Refund an order.

        Args:
            order_id: Its number.
        """
        done.append(f"refund_order {order_id}")
        return "ok"

    return [ship_order, cancel_order, refund_order]


async def pydantic_agent(base_url: str, api_key: str, row: dict[str, Any]) -> float:
    """One episode of a pydantic-ai agent; the reward is whether just the right thing was done."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    done: list[str] = []
    model = OpenAIChatModel("policy", provider=OpenAIProvider(base_url=base_url, api_key=api_key))
    async with Agent(model, instructions="Do it with the tools.", tools=desk(done)) as agent:
        await agent.run(row["prompt"])
    return float(done == [f"{row['tool']} {row['order_id']}"])


def smol_agent(base_url: str, api_key: str, row: dict[str, Any]) -> float:
    """The same with a tool-calling agent of smolagents, whose own prompt of 600 words gives way to a short one."""
    from smolagents import OpenAIModel, ToolCallingAgent, tool

    done: list[str] = []
    model = OpenAIModel("policy", api_base=base_url, api_key=api_key)
    agent = ToolCallingAgent([tool(act) for act in desk(done)], model, max_steps=4, verbosity_level=0)
    agent.prompt_templates["system_prompt"] = "Do it with the tools."
    agent.run(row["prompt"])
    return float(done == [f"{row['tool']} {row['order_id']}"])


def main() -> None:
    agents = {"pydantic-ai": pydantic_agent, "smolagents": smol_agent}
    options = settings()
    options.add_argument("--library", choices=agents, default="pydantic-ai")
    given = options.parse_args()
    episodes = train(agents[given.library], given).trajectories()
    answers, segments = sum(t["turns"] for t in episodes), sum(len(t["segments"]) for t in episodes)
    rewritten = sum(t["counts"].get("history_rewritten", 0) for t in episodes)
    print(f"{len(episodes)} held-out episodes: {answers} answers, {segments} segments, {rewritten} rewritten histories")


if __name__ == "__main__":
    main()
