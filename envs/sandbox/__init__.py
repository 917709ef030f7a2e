"""Where code that a policy wrote runs, and the only place it may run.

    Sandbox(limits).run_python(code, stdin)   one program in a fresh sandbox
    PythonSession(limits, setup).run(code)    a stateful session, standard library only, small and quick
    KernelSession(limits, setup, files)       the same with a Jupyter kernel, numpy, pandas and sympy

``python -m envs.sandbox`` checks what this machine can give.
"""

from envs.sandbox.bubblewrap import SandboxUnavailableError
from envs.sandbox.kernel import KernelSession
from envs.sandbox.limits import KERNEL_LIMITS, Limits
from envs.sandbox.python_session import ExecResult, PythonSession
from envs.sandbox.script import Sandbox, SandboxResult

__all__ = [
    "KERNEL_LIMITS",
    "ExecResult",
    "KernelSession",
    "Limits",
    "PythonSession",
    "Sandbox",
    "SandboxResult",
    "SandboxUnavailableError",
]
