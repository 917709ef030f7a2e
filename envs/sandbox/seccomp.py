"""The system-call filter of the sandbox, as classic BPF bytes for ``bwrap --seccomp``.

A deny list: Python, threads, subprocess and multiprocessing keep working; what is refused is what has no use
in a computation and has been a way out of containers before (kernel keyrings, bpf, io_uring, perf, ptrace,
mounts, new namespaces), what holds memory outside the address-space limit (memfd, System V shared memory, larger
buffers of sockets and pipes than the system's default), and every socket that is not a local one. Network sockets
would reach nothing, since the sandbox has an empty network namespace; but vsock, for one, does not belong to a
network namespace.
"""

from __future__ import annotations

import errno
import os
from functools import cache

_AF_UNIX = 1
_CLONE_NEW_NAMESPACES = (
    0x00000080,  # CLONE_NEWTIME
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# What is sent and not yet read is the kernel's memory, charged to the sender: with SO_SNDBUF it is 20 times as much.
_SOL_SOCKET, _SEND_BUFFERS = 1, (7, 32)  # SO_SNDBUF, SO_SNDBUFFORCE
_F_SETPIPE_SZ = 1031

# fmt: off
_DENIED = (
    "acct", "add_key", "adjtimex", "bpf", "chroot", "clock_adjtime", "clock_settime", "delete_module",
    "fanotify_init", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "init_module",
    "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp",
    "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind", "memfd_create",
    "memfd_secret", "migrate_pages", "mount", "mount_setattr", "move_mount", "move_pages", "mq_open",
    "msgget", "name_to_handle_at", "nfsservctl", "open_by_handle_at", "open_tree", "perf_event_open",
    "personality", "pidfd_getfd", "pivot_root", "process_madvise", "process_vm_readv",
    "process_vm_writev", "ptrace", "quotactl", "quotactl_fd", "reboot", "request_key", "semget",
    "set_mempolicy", "setdomainname", "sethostname", "setns", "settimeofday", "shmget", "stime",
    "swapoff", "swapon", "syslog", "umount", "umount2", "unshare", "uselib", "userfaultfd", "ustat",
    "vhangup",
)
# fmt: on


@cache
def filter_program() -> bytes:
    """BPF program of the filter for this machine's architecture.

    Raises ImportError or RuntimeError when pyseccomp or the libseccomp library is missing.
    """
    import pyseccomp  # late: it looks for the C library when imported

    deny = pyseccomp.ERRNO(errno.EPERM)
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    known = []
    for name in _DENIED:
        try:
            rules.add_rule(deny, name)
            known.append(name)
        except OSError:  # not a system call of this architecture (ioperm on arm64), or newer than libseccomp
            continue
    if "ptrace" not in known or "mount" not in known:
        raise RuntimeError(f"libseccomp accepted only these rules: {known}")
    # C libraries try clone3 first and fall back to clone, whose flags a filter can read.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for flag in _CLONE_NEW_NAMESPACES:
        rules.add_rule(deny, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    for request in _TERMINAL_INJECTION:
        # The kernel reads 32 bits of the request, so higher bits must not hide it.
        rules.add_rule(deny, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    low, masked = 0xFFFFFFFF, pyseccomp.MASKED_EQ  # of these arguments too the kernel reads 32 bits
    for option in _SEND_BUFFERS:
        of_socket, what = pyseccomp.Arg(1, masked, low, _SOL_SOCKET), pyseccomp.Arg(2, masked, low, option)
        rules.add_rule(deny, "setsockopt", of_socket, what)
    rules.add_rule(deny, "fcntl", pyseccomp.Arg(1, masked, low, _F_SETPIPE_SZ))
    for call in ("socket", "socketpair"):
        rules.add_rule(deny, call, pyseccomp.Arg(0, pyseccomp.NE, _AF_UNIX))
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "wb") as writer:
        rules.export_bpf(writer)
        writer.close()
        return reader.read()
