"""Runs inside the sandbox: unpacks the files it was given, takes on the limits, runs /main.py as main program.

Given to ``python -c`` as text; never imported by the toolkit. Standard library only, and little of it,
because every import costs start-up time. One byte on standard output says that the program is about to start.
"""

import os
import resource
import sys


def unpack(archive: str) -> None:
    """The files of the caller (see files.py), below /tmp/work, which becomes the working folder."""
    os.mkdir("/tmp/work")
    os.chdir("/tmp/work")
    with open(archive, "rb") as source:
        while size := source.read(4):
            name = source.read(int.from_bytes(size, "little")).decode("utf-8")
            folder = name.rpartition("/")[0]
            if folder:
                os.makedirs(folder, exist_ok=True)
            with open(name, "wb") as file:
                file.write(source.read(int.from_bytes(source.read(4), "little")))


def take_limits() -> None:
    """Hard limits, so that nothing that runs later can raise them. Also drops every inherited descriptor but
    those that the program is told of in its first argument."""
    memory, cpu, processes, file_size, files = (int(n) for n in sys.argv[1:6])
    kept = sorted(int(n) for n in sys.argv[7].split(",")) if len(sys.argv) > 7 else []
    for low, high in zip([2, *kept], [*kept, 65536], strict=True):
        os.closerange(low + 1, high)
    for kind, amount in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (amount, amount))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # a signal that has a name, then the kill


def run_main() -> None:
    """Run /main.py with the module namespace and the traceback a plain ``python main.py`` would give."""
    sys.argv[:] = ["/main.py", *sys.argv[7:]]
    main = sys.modules["__main__"] = type(sys)("__main__")
    main.__file__ = "/main.py"
    with open("/main.py", encoding="utf-8") as file:
        source = file.read()
    os.write(1, b"\x02")
    try:
        exec(compile(source, "/main.py", "exec"), main.__dict__)
    except Exception as error:
        below = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(below), below)
        sys.exit(1)


if __name__ == "__main__":
    if os.path.exists("/files"):
        unpack("/files")
    take_limits()
    run_main()
