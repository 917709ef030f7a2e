"""Runs inside the sandbox: a stateful Python session that answers requests on its standard input and output.

Given to ``python -c`` as text; never imported by the toolkit. The protocol is binary and tiny, so that no
json module has to be loaded:

    request   u32 length, code (UTF-8)
    response  u8 status (0 done, 1 exception), u8 truncated, u32 length, output, u32 length, error

Code under test can write to the protocol's descriptors; all it can forge is what it is told itself.
"""

import _ast  # the C part of ast: no start-up cost
import os
import resource
import sys


def take_limits() -> tuple[int, int]:
    """Limits that later code cannot raise; CPU time is granted call by call, for 100 calls at most."""
    memory, cpu, processes, file_size, files, shown = (int(n) for n in sys.argv[1:7])
    os.closerange(3, 65536)
    for kind, amount in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (amount, amount))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu * 100))
    return cpu, shown


def read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, size)
        if not part:
            os._exit(0)  # the other side has closed the session
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def run_cell(code: str, namespace: dict[str, object]) -> str:
    """Run one cell as a notebook does: the value of a last expression is printed. Returns the error text."""
    try:
        tree = compile(code, "<cell>", "exec", _ast.PyCF_ONLY_AST)
        assert isinstance(tree, _ast.Module)
        last = None
        final = tree.body[-1] if tree.body else None
        if isinstance(final, _ast.Expr):
            tree.body.pop()
            last = _ast.Expression(body=final.value)
        exec(compile(tree, "<cell>", "exec"), namespace)
        if last is not None:
            value = eval(compile(last, "<cell>", "eval"), namespace)
            if value is not None:
                print(repr(value))
        sys.stdout.flush()
        sys.stderr.flush()
        return ""
    except BaseException as error:
        line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
        trace = error.__traceback__
        while trace is not None:  # the deepest line of the cell itself
            if trace.tb_frame.f_code.co_filename == "<cell>":
                line = trace.tb_lineno
            trace = trace.tb_next
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        where = f" (line {line})" if line and code.count("\n") else ""
        return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def renew_streams() -> None:
    """Flush what was printed. A stream that cannot be flushed (the file is full, the cell closed it) is
    replaced before the file is emptied, so that what it still holds is not printed later."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError, AttributeError):
            fresh = open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, fresh)
            setattr(sys, f"__{name}__", fresh)


def main() -> None:
    cpu, shown = take_limits()
    requests, responses = os.dup(0), os.dup(1)
    # What is printed, by print(), os.write or a child process, goes to one unnamed file: in order, bounded by
    # the file-size limit (print() then raises), and never mixed with the protocol.
    printed = os.open("/tmp", os.O_TMPFILE | os.O_RDWR | os.O_APPEND, 0o600)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.close(nothing)
    namespace = {"__name__": "__main__", "__builtins__": __builtins__}
    while True:
        size = int.from_bytes(read_exactly(requests, 4), "little")
        code = read_exactly(requests, size).decode("utf-8")
        used = resource.getrusage(resource.RUSAGE_SELF)
        granted = int(used.ru_utime + used.ru_stime) + 1 + cpu
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (min(granted, hard), hard))
        error = run_cell(code, namespace)
        renew_streams()
        output = os.pread(printed, shown, 0)
        size = os.fstat(printed).st_size
        full = size > shown
        if size >= resource.getrlimit(resource.RLIMIT_FSIZE)[0]:
            error = "OutputError: the output limit is reached"
        os.ftruncate(printed, 0)
        told = error.encode("utf-8", "replace")[:shown]
        write_all(
            responses,
            bytes([bool(error), full])
            + len(output).to_bytes(4, "little")
            + output
            + len(told).to_bytes(4, "little")
            + told,
        )


if __name__ == "__main__":
    main()
