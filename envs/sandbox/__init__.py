"""Where code that a policy wrote runs, and the only place it may run.

    Sandbox(limits).run_python(code, stdin)   one program in a fresh sandbox
    PythonSession(limits, setup).run(code)    a stateful session, like a notebook kernel

``python -m envs.sandbox`` checks what this machine can give.
"""

from envs.sandbox.bubblewrap import SandboxUnavailableError
from envs.sandbox.limits import Limits
from envs.sandbox.script import Sandbox, SandboxResult
from envs.sandbox.session import ExecResult, PythonSession

__all__ = ["ExecResult", "Limits", "PythonSession", "Sandbox", "SandboxResult", "SandboxUnavailableError"]
