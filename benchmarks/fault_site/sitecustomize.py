"""Python imports this by itself when it starts and finds it on PYTHONPATH, in Ray's workers too: ``benchmarks.faults``
puts it there. No other run has it."""

import os

if "BENCHMARK_FAULT" in os.environ:
    from benchmarks.fault_hooks import install

    install(os.environ["BENCHMARK_FAULT"])
