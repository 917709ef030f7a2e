"""Your own agent, trained as it is: it asks an OpenAI-compatible endpoint, and what answers there learns.

    python examples/your_agent.py            # a few minutes on two cores; --seed 0, --steps 20

An order desk with three tools. The shipped policy of a million parameters knows these tools from a shop with more of
them; here it often takes the wrong one or miscopies a number.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from typing import Any

from openai import OpenAI

import rl

DEEDS = {"ship_order": "Ship", "cancel_order": "Cancel", "refund_order": "Refund"}
ORDER = {"type": "object", "properties": {"order_id": {"type": "integer"}}, "required": ["order_id"]}


def agent(base_url: str, api_key: str, row: dict[str, Any]) -> float:
    """One episode: an errand, tool calls until it is done; the reward."""
    client = OpenAI(base_url=base_url, api_key=api_key)
    tools: Any = [
        {"type": "function", "function": {"name": name, "description": f"{deed} an order.", "parameters": ORDER}}
        for name, deed in DEEDS.items()
    ]
    messages: list[Any] = [{"role": "system", "content": "Do it with the tools."},
                           {"role": "user", "content": row["prompt"]}]  # fmt: skip
    done: list[str] = []
    while True:
        said = client.chat.completions.create(model="policy", messages=messages, tools=tools).choices[0].message
        messages.append(said)
        if not said.tool_calls:
            return float(done == [f"{row['tool']} {row['order_id']}"])
        for call in said.tool_calls:
            made: Any = call.to_dict()["function"]
            done.append(f"{made['name']} {json.loads(made['arguments']).get('order_id')}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "ok"})


def make_rows(seed: int) -> list[dict[str, Any]]:
    """400 errands."""
    rng = random.Random(seed)
    chosen = [(rng.choice(list(DEEDS)), rng.randint(100, 999)) for _ in range(400)]
    return [{"prompt": f"{DEEDS[tool]} order {n}.", "tool": tool, "order_id": n} for tool, n in chosen]


def train(agent: Callable[[str, str, dict[str, Any]], Any], options: argparse.Namespace) -> rl.Run:
    """GRPO on errands; held-out errands before and after."""
    run = rl.train(
        data=make_rows(options.seed),
        agent=agent,
        coldstart={"enabled": False},
        steps=options.steps,
        prompts_per_step=16,
        seed=options.seed,
    )
    before, after = (run.summary[name]["overall"] for name in ("eval_before", "eval_after"))
    print(f"held-out reward {before:.2f} before, {after:.2f} after; policy in {run.policy_path}")
    return run


def settings() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    return parser


if __name__ == "__main__":
    train(agent, settings().parse_args())
