"""Reasoning without tools: generated puzzles and word problems whose answers are checked in a killable process."""

from envs.reasoning.taskset import ReasoningEnvironment, ReasoningTaskset

__all__ = ["ReasoningEnvironment", "ReasoningTaskset"]
