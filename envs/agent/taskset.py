"""The agent family: errands in a shop, done with typed tools in one to three calls.

    Move "account 471" to "Oslo".          find_customer -> set_city
    Cancel the order of "account 471".     find_customer -> find_order -> cancel_order
    Ship order 317.                        ship_order

The verifier compares the whole database with what it should be: the right row has changed, and no
other. What the policy says about it does not count.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from envs.agent.shop import FIRST_ID, LAST_ID, ShopRows, make_shop, open_database, read_database
from envs.environment import Environment, ToolError, tool
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, StepResult, Task, ToolCall
from envs.words import CITIES, Naming, check_naming, person_name

SYSTEM = "Do it with the tools."

MOVE, CANCEL, SHIP = "move", "cancel", "ship"
_STATUS = {CANCEL: "cancelled", SHIP: "shipped"}
_BY_NAME = {
    MOVE: ('Move "{name}" to "{city}".', 'The new city of "{name}" is "{city}".'),
    CANCEL: ('Cancel the order of "{name}".', '"{name}" wants to cancel the order.'),
    SHIP: ('Ship the order of "{name}".', '"{name}" waits for the order, ship it.'),
}
_BY_ID = {
    MOVE: ('Move customer {customer_id} to "{city}".',),
    CANCEL: ("Cancel order {order_id}.",),
    SHIP: ("Ship order {order_id}.",),
}


class AgentEnvironment(Environment):
    """One errand in one shop. The database is opened by reset() and is this episode's own."""

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        m = task.metadata
        self._start = make_shop(task.id, (m["customer_id"], m["name"], m["old_city"]), m["order_id"], m["naming"])
        self._database: sqlite3.Connection | None = None

    # -- tools -------------------------------------------------------------------------------

    @tool
    def find_customer(self, name: str) -> str:
        """Find a customer by name."""
        row = self._db.execute("SELECT id FROM customers WHERE name = ?", (name.strip().strip('"'),)).fetchone()
        if row is None:
            raise ToolError("there is no customer of that name.")
        return f"customer_id {row[0]}"

    @tool
    def find_order(self, customer_id: int) -> str:
        """Find the order of a customer."""
        row = self._db.execute("SELECT id FROM orders WHERE customer_id = ?", (customer_id,)).fetchone()
        if row is None:
            raise ToolError("there is no order of that customer.")
        return f"order_id {row[0]}"

    @tool
    def set_city(self, customer_id: int, city: str) -> str:
        """Change the city of a customer."""
        city = city.strip().strip('"')
        changed = self._db.execute("UPDATE customers SET city = ? WHERE id = ?", (city, customer_id)).rowcount
        if not changed:
            raise ToolError("there is no customer of that id.")
        return "ok"

    @tool
    def cancel_order(self, order_id: int) -> str:
        """Cancel an order."""
        return self._set_status(order_id, "cancelled")

    @tool
    def ship_order(self, order_id: int) -> str:
        """Ship an order."""
        return self._set_status(order_id, "shipped")

    # -- episode -----------------------------------------------------------------------------

    def reset(self) -> tuple[Message, ...]:
        self._database = open_database(self._start)
        return super().reset()

    def score(self, episode: Episode) -> dict[str, float]:
        return {"outcome": float(read_database(self._db) == self.expected())}

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def expected(self) -> ShopRows:
        """The rows after the errand was done right, and nothing else."""
        m = self.task.metadata
        if m["errand"] == MOVE:
            return self._start.moved(m["customer_id"], m["city"])
        return self._start.with_status(m["order_id"], _STATUS[m["errand"]])

    def step(self, action: Message) -> StepResult:
        result = super().step(action)
        self._db.commit()
        return result

    # -- demonstrators -----------------------------------------------------------------------

    def oracle(self, history: Sequence[Message]) -> Message:
        m = self.task.metadata
        customer_id = m["customer_id"] if not m["by_name"] else _last_number(history, "customer_id")
        if customer_id is None and (m["errand"] == MOVE or m["by_name"]):
            return _call("I look up the customer.", "find_customer", name=m["name"])
        if m["errand"] == MOVE:
            if _tried(history, "set_city", {"customer_id": customer_id, "city": m["city"]}):
                return _done()
            return _call("I change the city.", "set_city", customer_id=customer_id, city=m["city"])
        order_id = m["order_id"] if not m["by_name"] else _last_number(history, "order_id")
        if order_id is None:
            return _call("I look up the order.", "find_order", customer_id=customer_id)
        action = f"{m['errand']}_order"
        if _tried(history, action, {"order_id": order_id}):
            return _done()
        return _call(f"I {m['errand']} the order.", action, order_id=order_id)

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Invents an id instead of looking it up, takes the wrong tool, or stops half-way."""
        right = self.oracle(history)
        if not right.tool_calls:
            return right
        if any(not call.name.startswith("find_") for call in _calls(history)):
            return _done()  # it has changed something, and does not check what
        call = right.tool_calls[0]
        dice = rng.random()
        if call.name == "find_customer":
            return self._without_lookup(rng) if dice < 0.36 else right
        if call.name == "find_order":
            if dice < 0.2:
                return self._act(rng.randint(FIRST_ID, LAST_ID))
            return right
        if dice < (0.18 if self.task.metadata["by_name"] else 0.3):
            return _done()
        if dice < (0.36 if self.task.metadata["by_name"] else 0.6):
            return self._wrong_tool(call, rng)
        return right

    def _without_lookup(self, rng: random.Random) -> Message:
        number = rng.randint(FIRST_ID, LAST_ID)
        if self.task.metadata["errand"] == MOVE:
            return _call("I change the city.", "set_city", customer_id=number, city=self.task.metadata["city"])
        return self._act(number)

    def _act(self, order_id: int) -> Message:
        errand = self.task.metadata["errand"]
        return _call(f"I {errand} the order.", f"{errand}_order", order_id=order_id)

    def _wrong_tool(self, call: ToolCall, rng: random.Random) -> Message:
        if call.name == "set_city":
            return _call("I change the city.", "set_city", **{**call.arguments, "city": rng.choice(CITIES)})
        wrong = {"cancel_order": SHIP, "ship_order": CANCEL}[call.name]
        return _call(f"I {wrong} the order.", f"{wrong}_order", **call.arguments)

    # -- database ----------------------------------------------------------------------------

    @property
    def _db(self) -> sqlite3.Connection:
        if self._database is None:
            raise RuntimeError("the shop is not open: call reset() before step() or score()")
        return self._database

    def _set_status(self, order_id: int, status: str) -> str:
        row = self._db.execute("SELECT status FROM orders WHERE id = ?", (order_id,)).fetchone()
        if row is None:
            raise ToolError("there is no order of that id.")
        if row[0] != "open":
            raise ToolError(f"the order is {row[0]} already.")
        self._db.execute("UPDATE orders SET status = ? WHERE id = ?", (status, order_id))
        return "ok"


class AgentTaskset(Taskset):
    """Errands. ``by_name``: the share of errands that name a customer, so that ids must be looked up.

    ``naming``: what customers are called, "numbers" (easy) or "words" (see ``envs.words``).
    """

    family = "agent"
    env_class = AgentEnvironment
    max_turns = 4

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        by_name: float = 0.8,
        naming: Naming = "numbers",
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        if not 0.0 <= by_name <= 1.0:
            raise ValueError(f"by_name is {by_name}, must be between 0 and 1")
        check_naming(naming)
        self.by_name, self.naming = by_name, naming

    def task(self, index: int) -> Task:
        key, (metadata, question) = self.draw(index, self._propose)
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", question)),
            metadata={**metadata, "key": key},
            seed=self.seed,
        )

    def _propose(self, rng: random.Random) -> tuple[str, tuple[dict[str, Any], str]]:
        """An errand, and its key: the customer it names, or the errand and the id it names."""
        errand = rng.choice((MOVE, CANCEL, SHIP))
        by_name = rng.random() < self.by_name
        old_city, city = rng.sample(CITIES, 2)
        metadata = {
            "errand": errand,
            "by_name": by_name,
            "naming": self.naming,
            "name": person_name(rng, self.naming, "account"),
            "old_city": old_city,
            "city": city,
            "customer_id": rng.randint(FIRST_ID, LAST_ID),
            "order_id": rng.randint(FIRST_ID, LAST_ID),
        }
        question = rng.choice((_BY_NAME if by_name else _BY_ID)[errand]).format(**metadata)
        number = metadata["customer_id"] if errand == MOVE else metadata["order_id"]
        return (str(metadata["name"]) if by_name else f"{errand} {number}"), (metadata, question)


def _call(reasoning: str, tool_name: str, /, **arguments: Any) -> Message:
    return Message("assistant", reasoning=reasoning, tool_calls=(ToolCall(tool_name, arguments),))


def _done() -> Message:
    return Message("assistant", "Done.", reasoning="All is done.")


def _last_number(history: Sequence[Message], label: str) -> int | None:
    """The id that the last lookup returned, None before any."""
    for message in reversed(history):
        if message.role == "tool" and (match := re.fullmatch(rf"{label} (\d+)", message.content)):
            return int(match.group(1))
    return None


def _calls(history: Sequence[Message]) -> list[ToolCall]:
    return [call for message in history for call in message.tool_calls]


def _tried(history: Sequence[Message], name: str, arguments: dict[str, Any]) -> bool:
    """Whether this very call was made. If it failed, it would fail again."""
    return any(call.name == name and dict(call.arguments) == arguments for call in _calls(history))
