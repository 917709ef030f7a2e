"""An agent of pydantic-ai as it is: python library_pydantic_ai.py BASE_URL."""

import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel("policy", provider=OpenAIProvider(base_url=sys.argv[1], api_key="none"))
agent = Agent(model, instructions="You know prices.")


@agent.tool_plain
def price(item: str, n: int) -> str:
    """Price of some fruit."""
    return f"{n} {item}: {2 * n} EUR"


print("ANSWER", agent.run_sync("What do two pears cost?").output)
