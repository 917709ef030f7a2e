"""Questions that need a stateful Python session."""

from envs.interpreter.taskset import InterpreterEnvironment, InterpreterTaskset

__all__ = ["InterpreterEnvironment", "InterpreterTaskset"]
