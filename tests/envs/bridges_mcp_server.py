"""An MCP server for the tests: a stock of fruit, and ways to go wrong."""

import os
import sys
import time

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("fruit", log_level="CRITICAL")
stock = {"pear": 3, "apple": 11}


@server.tool()
def count(item: str) -> int:
    """How many of an item there are."""
    if item not in stock:
        raise ToolError(f"there is no {item}")
    return stock[item]


@server.tool()
def put(item: str, title: str | None = None, number: int = 1) -> str:
    """Put items into the stock."""
    stock[item] = stock.get(item, 0) + number
    return f"{item} {title}"


@server.tool()
def sleep(seconds: float) -> str:
    """Do nothing."""
    time.sleep(seconds)
    return "slept"


@server.tool()
def die() -> str:
    """End the server."""
    print("the roof fell in", file=sys.stderr, flush=True)
    os._exit(3)


if __name__ == "__main__":
    server.run()
