"""The attempts to get out of the sandbox: what is tried, what must happen, the code, how it must end.

``probes.py`` explains the columns. Used by the tests, as root and as an ordinary user, and by the self-check
``python -m envs.sandbox``.
"""

from __future__ import annotations

from envs.sandbox.limits import Limits
from envs.sandbox.probes import ANY, ROOT, Probe

_ABSENT, _DENIED, _READ_ONLY = {"ENOENT"}, {"EPERM"}, {"EROFS", "EACCES"}
_SMALL = Limits(wall_s=10.0, memory_mb=64, processes=8, disk_mb=4, file_mb=1, output_bytes=1000)
_SHORT = Limits(wall_s=0.4)

# fmt: off
_NETWORK = (
    Probe("a TCP port on the host's loopback", "no such socket can be made",
          "socket.create_connection(('127.0.0.1', PORT), 1)", _DENIED, ANY),
    Probe("a UDP packet to the loopback", "no such socket can be made",
          "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', PORT))", _DENIED, ANY),
    Probe("an IPv6 socket", "no such socket can be made", "socket.socket(socket.AF_INET6)", _DENIED),
    Probe("a raw IP socket", "no such socket can be made",
          "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()", _DENIED, ROOT),
    Probe("a packet socket", "no such socket can be made",
          "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", _DENIED, ROOT),
    Probe("a netlink socket", "no such socket can be made",
          "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", _DENIED, ANY),
    Probe("a vsock socket, which is in no network namespace", "no such socket can be made",
          "socket.socket(40, socket.SOCK_STREAM)", _DENIED),
    Probe("the kernel's crypto through AF_ALG", "no such socket can be made",
          "socket.socket(38, socket.SOCK_SEQPACKET)", _DENIED),
    Probe("a Unix socket of the host, by path", "the path does not exist",
          "socket.socket(socket.AF_UNIX).connect(UNIX)", _ABSENT, ANY),
    Probe("a Unix socket of the host, by abstract name", "nobody listens in this namespace",
          "socket.socket(socket.AF_UNIX).connect('\\0' + ABSTRACT)", {"ECONNREFUSED"}, ANY),
)
_FILES = (
    Probe("a readable file of the host", "it does not exist", "open(SECRET).close()", _ABSENT, ANY),
    Probe("the same by way of '..'", "it does not exist", "open('/tmp/' + '../' * 20 + SECRET[1:])", _ABSENT, ANY),
    Probe("the same through a symbolic link", "the link leads nowhere",
          "os.symlink(SECRET, 'link')\nopen('link').close()", _ABSENT, ANY),
    Probe("the same through a hard link", "there is nothing to link", "os.link(SECRET, 'hard')", _ABSENT),
    Probe("a hard link from /tmp into the interpreter", "another file system",
          "os.link(sys.executable, '/tmp/hard')", {"EXDEV", "EPERM"}),
    Probe("the accounts of the host", "they do not exist", "open('/etc/passwd').close()", _ABSENT, ANY),
    Probe("home folders and temporary files of others", "/tmp is empty and the rest absent",
          "found = [p for p in ('/root', '/home', '/var', '/run', '/opt', '/mnt') if os.path.lexists(p)]\n"
          "if not found + os.listdir('/tmp'): refuse()", _DENIED, ANY),
    Probe("the toolkit's own code, oracles and all", "it does not exist", "os.listdir(PACKAGE)", _ABSENT, ANY),
    Probe("installed packages, data and answers in them", "only the standard library is there",
          "import pyseccomp", {"ModuleNotFoundError"}, ANY),
    Probe("/proc: another process's environment", "there is no /proc",
          "open(f'/proc/{HARNESS}/environ', 'rb').close()", _ABSENT, ANY),
    Probe("/proc: the memory of the harness", "there is no /proc",
          "open(f'/proc/{HARNESS}/mem', 'rb').close()", _ABSENT, ROOT),
    Probe("/proc/sys: a kernel setting, opened for writing", "there is no /proc",
          "open('/proc/sys/kernel/core_pattern', 'r+').close()", _ABSENT),
    Probe("/sys: settings of devices and cgroups", "there is no /sys", "os.listdir('/sys')", _ABSENT, ANY),
    Probe("raw devices", "none of them exists",
          "for name in ('mem', 'kmsg', 'port', 'vda', 'sda', 'nvme0n1', 'kvm', 'fuse', 'tty', 'ptmx', 'loop0'):\n"
          "    try: os.close(os.open('/dev/' + name, os.O_RDONLY)); break\n    except FileNotFoundError: pass\n"
          "else: refuse()", _DENIED, ROOT),
    Probe("a device node of one's own", "only the host's root makes nodes",
          "os.mknod('/tmp/node', 0o600 | stat.S_IFBLK, os.makedev(254, 0))", _DENIED),
    Probe("the interpreter, opened for writing", "its files are read-only", "open(os.__file__, 'r+').close()",
          _READ_ONLY),
    Probe("a new file anywhere but in /tmp", "every other folder is read-only",
          "for folder, below, _ in os.walk('/', followlinks=False):\n"
          "    below[:] = [b for b in below if folder.count('/') < 2 and not (folder == '/' and b == 'tmp')]\n"
          "    try: os.close(os.open(folder + '/x', os.O_CREAT | os.O_WRONLY)); break\n"
          "    except OSError as e: assert e.errno in (errno.EROFS, errno.EACCES), e\n"
          "else: refuse()", _DENIED),
    Probe("descriptors that the harness holds", "only the standard streams are open",
          "for n in range(3, 1024):\n    try: os.fstat(n); break\n    except OSError: pass\nelse: refuse()",
          _DENIED, ANY),
    Probe("a file by its handle", "the call is refused",
          "call(OPEN_BY_HANDLE_AT, -100, ctypes.create_string_buffer(200), 0)", _DENIED, ROOT),
    Probe("a secret in the environment", "the environment is the sandbox's", "os.environ['SANDBOX_BAIT']",
          {"KeyError"}, ANY),
)
_PROCESSES = (
    Probe("a signal to a process of the host", "its number means nothing here", "os.kill(CHILD, 0)", {"ESRCH"}, ANY),
    Probe("a signal to everybody", "there is nobody else", "os.kill(-1, 0)", {"ESRCH"}, ANY),
    Probe("a signal to a process group of the host", "there is no such group", "os.killpg(os.getpgid(CHILD), 0)",
          {"ESRCH"}, ANY),
    Probe("a handle on a process of the host", "its number means nothing here", "os.pidfd_open(CHILD)", {"ESRCH",
          "EINVAL"}, ANY),
    Probe("a descriptor out of another process", "the call is refused",
          "call(PIDFD_GETFD, os.pidfd_open(os.getpid()), 0, 0)", _DENIED, ANY),
    Probe("priority of a process of the host", "its number means nothing here",
          "os.getpriority(os.PRIO_PROCESS, CHILD)", {"ESRCH"}, ANY),
    Probe("limits of a process of the host", "its number means nothing here",
          "resource.prlimit(CHILD, resource.RLIMIT_NOFILE)", {"ESRCH"}, ANY),
    Probe("ptrace", "the call is refused", "call(PTRACE, 0, 0, 0, 0)", _DENIED, ANY),
    Probe("memory of another process, to read", "the call is refused",
          "call(PROCESS_VM_READV, os.getpid(), 0, 0, 0, 0, 0)", _DENIED, ANY),
    Probe("memory of another process, to write", "the call is refused",
          "call(PROCESS_VM_WRITEV, os.getpid(), 0, 0, 0, 0, 0)", _DENIED, ANY),
    Probe("characters typed into the terminal (TIOCSTI)", "the request is refused before the file is looked at",
          "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')", _DENIED, ANY),
    Probe("the same with high bits that the kernel ignores", "refused as well",
          "checked(libc.ioctl(0, ctypes.c_ulong(0x100005412), b'x'))", _DENIED, ANY),
)
_PRIVILEGES = (
    Probe("uid 0", "it is not to be had", "os.setuid(0)", {"EPERM", "EINVAL"}, ROOT),
    Probe("the group of root", "it is not to be had", "os.setgroups([0])", _DENIED, ROOT),
    Probe("capabilities, held or to be gained", "there are none, in no set, and no new privileges",
          "header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()\n"
          "checked(libc.capget(header, sets))\n"
          "bounding = os.geteuid() and [n for n in range(41) if libc.prctl(23, n, 0, 0, 0) == 1]\n"
          "if not any(sets) and libc.prctl(39, 0, 0, 0, 0) == 1: refuse()", _DENIED, ANY),
    Probe("an ambient capability", "it cannot be raised", "checked(libc.prctl(47, 2, 21, 0, 0))", _DENIED),
    Probe("real-time scheduling", "it needs a privilege", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
          _DENIED),
    Probe("a better priority", "it needs a privilege", "os.nice(-5)", {"EPERM", "EACCES"}, ROOT),
    Probe("higher limits", "they are hard", "resource.setrlimit(resource.RLIMIT_NPROC, (4000, 4000))",
          {"ValueError"}, ROOT),
    Probe("a core dump", "its size is limited to nothing", "resource.setrlimit(resource.RLIMIT_CORE, (1, 1))",
          {"ValueError"}, ROOT),
    Probe("chroot", "the call is refused", "os.chroot('.')", _DENIED, ROOT),
    *(
        Probe(f"a {name} namespace of one's own (unshare)", "the call is refused", f"call(UNSHARE, {flag})",
              _DENIED, ROOT)
        for name, flag in (("user", 0x10000000), ("mount", 0x20000), ("pid", 0x20000000), ("network", 0x40000000))
    ),
    Probe("a user namespace of one's own (clone)", "the call is refused",
          "if call(CLONE, 0x10000000 | 17, 0, 0, 0, 0) == 0: os._exit(0)", _DENIED, ROOT),
    Probe("the same by clone3, whose flags a filter cannot read", "the call does not exist",
          "call(CLONE3, 0, 0)", {"ENOSYS"}, ANY),
    Probe("another namespace (setns)", "the call is refused", "call(SETNS, 0, 0)", _DENIED, ANY),
    Probe("a proc file system of one's own", "the call is refused",
          "os.mkdir('p')\ncall(MOUNT, b'proc', b'p', b'proc', 0, 0)", _DENIED),
    Probe("making a read-only mount writable", "the call is refused",
          "call(MOUNT, b'none', b'/python/bin', 0, 32 | 4096, 0)", _DENIED),
    Probe("unmounting /tmp", "the call is refused", "call(UMOUNT2, b'/tmp/none', 0)", _DENIED, ANY),
    Probe("pivot_root", "the call is refused", "call(PIVOT_ROOT, b'none', b'none')", _DENIED, ROOT),
    *(
        Probe(f"the newer mount calls: {name}", "the call is refused", f"call({name.upper()}, {rest})", _DENIED, ROOT)
        for name, rest in (
            ("fsopen", "b'none', 0"), ("open_tree", "-1, b'', 0"), ("move_mount", "-1, b'', -1, b'', 0"),
            ("mount_setattr", "-1, b'', 0, 0, 0"),
        )
    ),
)
_KERNEL = (
    Probe("the keyring of the session", "the call is refused", "call(KEYCTL, 0, -3, 0)", _DENIED, ANY),
    Probe("a new key", "the call is refused", "call(ADD_KEY, 0, 0, 0, 0, 0)", _DENIED, ANY),
    Probe("eBPF", "the call is refused", "call(BPF, 9999, 0, 0)", _DENIED, ROOT),
    Probe("io_uring", "the call is refused", "call(IO_URING_SETUP, 1, 0)", _DENIED, ROOT),
    Probe("perf events", "the call is refused", "call(PERF_EVENT_OPEN, 0, 0, -1, -1, 0)", _DENIED, ROOT),
    Probe("userfaultfd", "the call is refused", "os.close(call(USERFAULTFD, 1))", _DENIED, ANY),
    Probe("memory files, which no limit counts", "the call is refused", "os.close(os.memfd_create('x'))", _DENIED, ANY),
    Probe("System V shared memory", "the call is refused", "call(SHMGET, 0x7abc0001, 4096, 0)", _DENIED, ANY),
    Probe("System V semaphores", "the call is refused", "call(SEMGET, 0x7abc0001, 1, 0)", _DENIED, ANY),
    Probe("System V messages", "the call is refused", "call(MSGGET, 0x7abc0001, 0)", _DENIED, ANY),
    Probe("POSIX message queues", "the call is refused", "call(MQ_OPEN, b'none-such', 0, 0, 0)", _DENIED, ANY),
    Probe("watching files of the whole machine (fanotify)", "the call is refused",
          "os.close(call(FANOTIFY_INIT, 0, 0))",
          _DENIED, ROOT),
    Probe("the kernel's log", "the call is refused", "call(SYSLOG, 10, 0, 0)", _DENIED, ROOT),
    Probe("a kernel module", "the call is refused", "call(INIT_MODULE, 0, 0, 0)", _DENIED, ROOT),
    Probe("another kernel (kexec)", "the call is refused", "call(KEXEC_LOAD, 0, 0, 0, 0xffff)", _DENIED),
    Probe("a restart of the machine", "the call is refused", "call(REBOOT, 0, 0, 0, 0)", _DENIED),  # wrong magic number
    Probe("the clock", "the call is refused", "call(SETTIMEOFDAY, 0, 0)", _DENIED, ROOT),
    Probe("a swap area", "the call is refused", "call(SWAPON, b'none', 0)", _DENIED, ROOT),
    Probe("another personality", "the call is refused", "call(PERSONALITY, 0xffffffff)", _DENIED, ANY),
    Probe("input and output ports", "the call is refused", "call(IOPL, 0)", _DENIED, ANY, x86_only=True),
    Probe("32-bit system calls, numbered otherwise", "the process is killed",
          "code = mmap.mmap(-1, 4096, prot=7)\n"
          "code.write(bytes.fromhex('b814000000cd80c3'))  # getpid() by int 0x80\n"
          "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()", {"SIGSYS"}, ANY,
          x86_only=True),
    Probe("x32 system calls, numbered otherwise", "the process is killed",
          "call(0x40000000 + 39)", {"SIGSYS"}, ANY, x86_only=True),
)
_RESOURCES = (
    Probe("a fork bomb", "the number of processes is limited",
          "for n in range(100):\n    if os.fork() == 0: time.sleep(20); os._exit(0)", {"EAGAIN"}, limits=_SMALL),
    Probe("zombies", "they count as processes",
          "for n in range(100):\n    if os.fork() == 0: os._exit(0)", {"EAGAIN"}, limits=_SMALL),
    Probe("a fork bomb that goes on for ever", "it is limited and ends with the time",
          "while True:\n    try:\n        if os.fork() == 0: pass\n    except OSError: pass", {"time"}, limits=_SHORT),
    Probe("threads without end", "they count as processes",
          "for n in range(100): threading.Thread(target=time.sleep, args=(20,), daemon=True).start()", {"RuntimeError"},
          limits=_SMALL),
    Probe("memory in one process", "the address space is limited", "bytearray(200 << 20)",
          {"MemoryError"}, ANY, _SMALL),
    Probe("memory by mmap, shared", "the address space is limited", "mmap.mmap(-1, 200 << 20)",
          {"ENOMEM"}, ANY, _SMALL),
    Probe("memory in many processes", "each has the limit, and their number is limited",
          "def child():\n    try: bytearray(80 << 20)\n    except MemoryError: os._exit(7)\n    os._exit(0)\n"
          "for n in range(4):\n    if os.fork() == 0: child()\n"
          "if all(os.waitstatus_to_exitcode(os.wait()[1]) == 7 for n in range(4)): raise MemoryError", {"MemoryError"},
          ANY, _SMALL),
    Probe("a full disk", "the folder has a size",
          "for n in range(8): open(str(n), 'wb').write(bytes(1 << 20))", {"ENOSPC"}, limits=_SMALL),
    Probe("shared memory files", "they lie in the same folder",
          "for n in range(8): open(f'/dev/shm/{n}', 'wb').write(bytes(1 << 20))", {"ENOSPC"}, limits=_SMALL),
    Probe("one big file", "a file has a limit", "open('big', 'wb').write(bytes(2 << 20))", {"EFBIG"}, ANY, _SMALL),
    Probe("a sparse file", "its length counts", "open('big', 'wb').truncate(1 << 40)", {"EFBIG"}, ANY, _SMALL),
    Probe("large buffers of sockets, which no limit counts", "they cannot be made larger",
          "socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)", _DENIED, ANY),
    Probe("the same with high bits, which the kernel ignores", "refused as well",
          "checked(libc.setsockopt(socket.socketpair()[0].fileno(), ctypes.c_ulong(0x100000001),\n"
          "    ctypes.c_ulong(0x100000007), ctypes.byref(ctypes.c_int(1 << 20)), 4))", _DENIED, ANY),
    Probe("large buffers of pipes, which no limit counts", "they cannot be made larger",
          "import fcntl\nfcntl.fcntl(os.pipe()[1], 1031, 1 << 20)", _DENIED, ANY),
    Probe("descriptors without end", "their number is limited", "held = [os.dup(0) for n in range(500)]",
          {"EMFILE"}, ANY),
    Probe("a flood on standard output", "it is cut and stopped", "while True: print('x' * 999)",
          {"output"}, limits=_SMALL),
    Probe("a flood on standard error", "it is cut and stopped", "while True: sys.stderr.write('x' * 999)", {"output"},
          limits=_SMALL),
    Probe("a flood from child processes", "it is cut and stopped",
          "for n in range(2): os.fork()\nwhile True: os.write(1, b'x' * 999)", {"output"}, limits=_SMALL),
)
_TIME = (
    Probe("working without end", "the time is limited", "while True: pass", {"time"}, limits=_SHORT),
    Probe("sleeping without end", "the time is limited", "time.sleep(60)", {"time"}, limits=_SHORT),
    Probe("working on after the CPU limit's signal", "the second limit kills",
          "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", {"time",
          "SIGKILL"}, limits=Limits(cpu_s=1, wall_s=5.0)),
    Probe("ignoring every signal that can be ignored", "the kill cannot be",
          "for n in signal.valid_signals() - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
          {"time"}, limits=_SHORT),
    Probe("many short processes, none over the CPU limit", "the wall clock counts them all",
          "while True:\n    if os.fork() == 0: sum(range(10 ** 5)); os._exit(0)\n    os.wait()",
          {"time"}, limits=_SHORT),
    Probe("closing the output and living on", "the end is awaited, not the output",
          "os.close(1); os.close(2)\ntime.sleep(60)", {"time"}, limits=_SHORT),
    Probe("a child that holds the output open", "it ends with the program",
          "if os.fork() == 0: time.sleep(60)\nprint('ended', flush=True); os._exit(0)", {"ended"}),
    Probe("a daemon: two forks, a session of its own, no parent-death signal", "it ends with the program",
          "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
          "        libc.prctl(1, 0, 0, 0, 0); signal.signal(1, signal.SIG_IGN); os.chdir('/')\n"
          "        for n in range(3): os.close(n)\n        time.sleep(60)\n    os._exit(0)\n"
          "os.wait(); print('ended', flush=True); os._exit(0)", {"ended"}),
)
# fmt: on

ESCAPES: tuple[Probe, ...] = (*_NETWORK, *_FILES, *_PROCESSES, *_PRIVILEGES, *_KERNEL, *_RESOURCES, *_TIME)
