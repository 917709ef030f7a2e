"""An agent of openai-agents as it is: python library_openai_agents.py BASE_URL [chat]. Without chat: the Responses API,
its default."""

import asyncio
import sys

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)


@function_tool
def price(item: str, n: int) -> str:
    """Price of some fruit."""
    return f"{n} {item}: {2 * n} EUR"


async def main() -> None:
    client = AsyncOpenAI(base_url=sys.argv[1], api_key="none")
    api = OpenAIChatCompletionsModel if sys.argv[2:] == ["chat"] else OpenAIResponsesModel
    model = api(model="policy", openai_client=client)
    agent = Agent(name="shopper", instructions="You know prices.", tools=[price], model=model)
    result = Runner.run_streamed(agent, "What do two pears cost?")
    async for _ in result.stream_events():
        pass
    print("ANSWER", result.final_output)


asyncio.run(main())
