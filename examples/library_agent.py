"""An agent of a library from PyPI, trained as it is: the order desk of examples/your_agent.py as a pydantic-ai agent.

    pip install pydantic-ai-slim==2.68.0     # it is in the dev extra
    python examples/library_agent.py         # minutes on two cores; --seed 0, --steps 20

The library makes the schemas, runs the tools and tells the policy about its mistakes.
"""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from your_agent import main


async def agent(base_url: str, api_key: str, row: dict[str, Any]) -> float:
    """One episode: an errand; the reward is whether just the right thing was done."""
    done: list[str] = []

    def ship_order(order_id: int) -> str:
        """Ship an order."""
        done.append(f"ship_order {order_id}")
        return "ok"

    def cancel_order(order_id: int) -> str:
        """Cancel an order."""
        done.append(f"cancel_order {order_id}")
        return "ok"

    def refund_order(order_id: int) -> str:
        """Refund an order."""
        done.append(f"refund_order {order_id}")
        return "ok"

    model = OpenAIChatModel("policy", provider=OpenAIProvider(base_url=base_url, api_key=api_key))
    tools = [ship_order, cancel_order, refund_order]
    await Agent(model, instructions="Do it with the tools.", tools=tools).run(row["prompt"])
    return float(done == [f"{row['tool']} {row['order_id']}"])


if __name__ == "__main__":
    main(agent)
