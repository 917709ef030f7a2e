"""Runs inside the sandbox as /main.py: an IPython kernel whose sockets were opened outside.

Given to the sandbox as text; never imported by the toolkit. ``sys.argv`` after the name: the descriptors of the
listening shell, control and iopub sockets (with commas between them), the key that signs messages, CPU seconds
per cell, characters that a cell may print.

The kernel is ipykernel's own. What is changed: it takes over sockets instead of binding paths or ports, has no
heartbeat (the host watches the process) and no standard input, writes no connection file and no history, makes
text of rich results here, and keeps what it sends within the host's bound for a message.
"""

# mypy: ignore-errors
import os
import resource
import site
import sys

PACKAGES = "/packages"
DESCRIPTORS = dict(
    zip(("shell_socket", "control_socket", "iopub_socket"), map(int, sys.argv[1].split(",")), strict=True)
)
KEY, CPU_S, PRINTED = sys.argv[2].encode(), int(sys.argv[3]), int(sys.argv[4])

sys.path.append(PACKAGES)
site.sethelper()  # help(), which Python's -S leaves out
os.environ.update(
    PYTHONPATH=PACKAGES,  # for programs that a cell starts
    IPYTHONDIR="/tmp/.ipython",
    OPENBLAS_NUM_THREADS="1",  # threads count against the limits, and memory is reserved for each
    PYDEVD_DISABLE_FILE_VALIDATION="1",
)

import zmq  # noqa: E402
from ipykernel import kernelapp  # noqa: E402
from ipykernel.iostream import IOPubThread, OutStream  # noqa: E402
from IPython.core.formatters import PlainTextFormatter  # noqa: E402
from traitlets.config import Config  # noqa: E402
from zmq.eventloop.zmqstream import ZMQStream  # noqa: E402


class LocalIOPubThread(IOPubThread):
    """What forked children print comes through a Unix socket of the sandbox; ipykernel takes a TCP port."""

    pipe_address = "ipc:///tmp/.children"

    def _setup_pipe_in(self):
        self._pipe_uuid = os.urandom(16)
        pipe = self.socket.context.socket(zmq.PULL)
        pipe.linger = 0
        pipe.bind(self.pipe_address)
        self._pipe_in = ZMQStream(pipe, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self):
        context = zmq.Context()
        pipe = context.socket(zmq.PUSH)
        pipe.linger = 3000
        pipe.connect(self.pipe_address)
        return context, pipe


class BoundedStream(OutStream):
    """print() raises when a cell has printed PRINTED characters."""

    printed = 0  # of both streams together

    def write(self, string):
        BoundedStream.printed += len(string)
        if BoundedStream.printed > PRINTED:
            raise OSError("the output limit of this cell is reached")
        return super().write(string)


class BoundedText(PlainTextFormatter):
    def __call__(self, obj):
        return super().__call__(obj)[:PRINTED]


class Kernel(kernelapp.IPKernelApp):
    def _try_bind_socket(self, s, port):
        for name, descriptor in DESCRIPTORS.items():
            if getattr(self, name) is s:
                s.setsockopt(zmq.USE_FD, descriptor)
                s.bind(f"ipc:///{name}")  # only a name: the descriptor is bound and listens already
                if name == "iopub_socket":
                    s.setsockopt(zmq.XPUB_NODROP, 1)  # a full pipe waits; "idle" must not get lost
                return 1
        s.bind("inproc://unused")  # standard input, which nobody is asked for
        return 1

    def init_control(self, context):
        super().init_control(context)
        endpoint = self.shell_socket.getsockopt(zmq.LAST_ENDPOINT)
        self.debug_shell_socket.disconnect(endpoint)  # a path of the host: it would try forever

    def init_connection_file(self):
        pass

    def write_connection_file(self, **_):
        pass

    def init_heartbeat(self):
        pass

    def init_poller(self):
        pass


def begin_cell(*_):
    BoundedStream.printed = 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    granted = int(used.ru_utime + used.ru_stime) + 1 + CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (min(granted, hard), hard))


def main():
    kernelapp.IOPubThread = LocalIOPubThread
    config = Config()
    config.Session.key = KEY
    config.IPKernelApp.log_level = 50
    config.IPKernelApp.outstream_class = "__main__.BoundedStream"
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.xmode = "Plain"
    app = Kernel.instance(config=config)
    app.initialize([])
    formatter = app.shell.display_formatter
    formatter.active_types = ["text/plain"]
    formatter.formatters["text/plain"] = BoundedText(parent=formatter)
    app.shell.events.register("pre_run_cell", begin_cell)
    app.start()


if __name__ == "__main__":
    main()
