"""Write and repair small functions, judged by hidden tests in the sandbox."""

from envs.code.taskset import CodeEnvironment, CodeTaskset

__all__ = ["CodeEnvironment", "CodeTaskset"]
