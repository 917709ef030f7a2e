"""What sandboxed code may use. One frozen object, the same for a script and for a session."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one sandbox.

    The kernel bounds the address space of each process, and the size of ``/tmp``; there is no memory cgroup,
    which would have to be delegated to this user. So the worst case of one sandbox is ``processes * memory_mb +
    disk_mb``, plus what the kernel keeps: for empty files about 1 kB each, and at most as many as half the machine's
    memory has pages, an eighth of the memory in all; for what is sent through local sockets and pipes and not yet
    read the system's default buffer of each, 208 KiB (``net.core.wmem_default``) for each of ``processes *
    open_files`` descriptors, since the filter refuses larger ones. Against many such sandboxes at once there is the
    kernel's choice: when memory runs out, it kills sandboxes before anything else (``killed_first``).
    """

    wall_s: float = 10.0  # per run (script) or per call (session); the sandbox is killed after it
    cpu_s: int = 5  # CPU seconds per run or per call, whole seconds because RLIMIT_CPU is
    memory_mb: int = 256  # address space of each process
    processes: int = 16  # processes and threads alive at once inside, the sandbox's own two included
    disk_mb: int = 16  # size of the only writable folder, /tmp, in memory
    file_mb: int = 8  # largest file; also what a session call may print before print() raises
    open_files: int = 64
    output_bytes: int = 20_000  # kept of stdout and of stderr each; a script that prints more is stopped

    def __post_init__(self) -> None:
        for name, low in (
            ("wall_s", 0.01),
            ("cpu_s", 1),
            ("memory_mb", 32),
            ("processes", 3),
            ("disk_mb", 1),
            ("file_mb", 1),
            ("open_files", 16),
            ("output_bytes", 1),
        ):
            value = getattr(self, name)
            if not value >= low:
                raise ValueError(f"Limits.{name}={value!r} is too small; use at least {low}")

    def guest_arguments(self) -> list[str]:
        """The numbers the guest program turns into rlimits, in the order it reads them."""
        mib = 1 << 20
        return [
            str(n)
            for n in (
                self.memory_mb * mib,
                self.cpu_s,
                self.processes,
                self.file_mb * mib,
                self.open_files,
                self.output_bytes,
            )
        ]


# A cell ends well before a rollout's deadline of one step, or sleeping would mask an episode.
# With numpy, pandas and sympy loaded a kernel holds 120 MB and reserves 330 MB of addresses, in 8 threads.
KERNEL_LIMITS = Limits(
    wall_s=25.0, cpu_s=25, memory_mb=1024, processes=24, disk_mb=64, file_mb=16, open_files=256, output_bytes=20_000
)
