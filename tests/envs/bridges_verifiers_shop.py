"""A verifiers taskset for the tests: a stock behind tools, served over MCP, one server a rollout."""

import verifiers.v1 as vf


class ShopTools(vf.Toolset[vf.ToolsetConfig]):
    TOOL_PREFIX = None

    @vf.tool
    async def count(self, item: str) -> int:
        """How many of an item there are."""
        return {"pear": 3, "apple": 11}[item]

    @vf.tool
    async def price(self, item: str) -> int:
        """What one of an item costs."""
        return {"pear": 2, "apple": 1}[item]


class ShopTask(vf.Task[vf.TaskData]):
    @classmethod
    def toolsets(cls, config):
        return [ShopTools(vf.ToolsetConfig())]

    @vf.reward
    async def right(self, trace) -> float:
        worth = {"pears": "6", "apples": "11"}[self.data.prompt_text.split(" ")[3]]
        return float((trace.last_reply or "").strip() == worth)


class Shop(vf.Taskset[ShopTask]):
    def load(self):
        for fruit in ("pears", "apples"):
            for when in range(10):
                prompt = f"What are the {fruit} worth together on day {when}?"
                yield ShopTask(vf.TaskData(prompt=prompt), self.config.task)


__all__ = ["Shop"]

if __name__ == "__main__":
    ShopTools.run()
