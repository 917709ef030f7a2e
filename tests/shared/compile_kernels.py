"""Triton's compiler on every kernel of ours, no GPU needed: ``types`` (to its first form) or ``sm_90`` (H100 code).

    python tests/shared/compile_kernels.py types
    python tests/shared/compile_kernels.py sm_90      kernel, bytes of shared memory, tensor-core instruction

Must run without TRITON_INTERPRET.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import triton.language as tl
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile, make_backend

from rl.policy.ops import gathered_kernels, head_kernels, index_kernels
from rl.policy.ops.launch import WARPS

H100 = GPUTarget("cuda", 90, 32)
FLOATS = {"w", "lse", "delta", "grad_w", "grad_rows", "norm", "best_out", "total_out", "mean_out", "chosen_out"}
WHOLE = {"indices", "low", "high", "targets"}
SCALARS = {"scale", "temperature"}
NUMBERS = {"Q", "S", "K", "H", "C", "R", "N", "V", "D", "BYTES", "SPAN", "START", "WIDTH"}


def kernels(dtype: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every kernel with its constants at V3.2's sizes."""
    index = {"H": 64, "D": 128, "BD": 128, "BQ": index_kernels.QUERIES, "BS": index_kernels.ROWS, "DOT": dtype}
    for name in ("_scores", "_grad_of_queries", "_grad_of_keys"):
        yield getattr(index_kernels, name), index
    gathered = {"BH": gathered_kernels.HEADS, "BN": gathered_kernels.CHOSEN, "BC": 512, "BR": 64, "DOT": dtype}
    yield gathered_kernels._attend, gathered
    yield gathered_kernels._grad_of_queries, gathered
    for atomic in (True, False):
        yield gathered_kernels._grad_of_rows, {**gathered, "ATOMIC": atomic}
    head = {"BN": head_kernels.TOKENS, "BV": head_kernels.WORDS, "BD": head_kernels.DEPTH, "DOT": dtype, "MASKED": True}
    yield head_kernels._sums, head
    yield head_kernels._grad_of_logits, head


def source(kernel: Any, constants: dict[str, Any], name: str) -> ASTSource:
    kinds = {}
    for argument in kernel.arg_names:
        if argument in constants:
            kinds[argument] = "constexpr"
        elif argument in SCALARS:
            kinds[argument] = "fp32"
        elif argument in NUMBERS:
            kinds[argument] = "i32"
        elif argument == "bits":
            kinds[argument] = "*u8"
        elif argument in WHOLE:
            kinds[argument] = "*i64"
        else:
            kinds[argument] = "*fp32" if argument in FLOATS else f"*{name}"
    return ASTSource(kernel, kinds, {(kernel.arg_names.index(key),): value for key, value in constants.items()})


def main() -> None:
    if sys.argv[1] == "sm_90":
        for kernel, constants in kernels(tl.bfloat16):
            made = compile(source(kernel, constants, "bf16"), target=H100, options={"num_warps": WARPS["num_warps"]})
            code = made.asm["ptx"]
            product = "wgmma" if "wgmma" in code else "mma" if "mma.sync" in code else "none"
            print(kernel.__name__, made.metadata.shared, product)
        return
    backend = make_backend(H100)
    options = backend.parse_options(dict(WARPS))
    variants = 0
    for name, dtype in (("bf16", tl.bfloat16), ("fp32", tl.float32)):
        for kernel, constants in kernels(dtype):
            context = ir.context()
            ir.load_dialects(context)
            backend.load_dialects(context)
            src = source(kernel, constants, name)
            src.make_ir(H100, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)
            variants += 1
    print(f"{variants // 2} kernels, {variants} variants")


if __name__ == "__main__":
    main()
