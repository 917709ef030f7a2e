"""A smolagents agent as it is: python library_smolagents.py BASE_URL."""

import sys

from smolagents import OpenAIModel, ToolCallingAgent, tool


@tool
def price(item: str, n: int) -> str:
    """Price of some fruit.

    Args:
        item: the fruit
        n: how many
    """
    return f"{n} {item}: {2 * n} EUR"


model = OpenAIModel(model_id="policy", api_base=sys.argv[1], api_key="none")
agent = ToolCallingAgent(tools=[price], model=model, max_steps=6, verbosity_level=0)
print("ANSWER", agent.run("What do two pears cost?"))
