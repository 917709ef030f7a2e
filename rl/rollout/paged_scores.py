"""Index scores over the paged cache: the loop that reads every key, in LLVM's vectors (numba, a part of vLLM).

    scores[s] = sum_j w[j] ReLU(q[j] . k[s])        heads in their order, each product from its first number to its last

EIGHT heads meet eight keys at once: eight sums stay in registers while a tile of keys goes by. Numba's own vectors are
of what it finds by itself, and that are half as many sums. Codes of eight bits are multiplied by VNNI, 32 in one
instruction, where the CPU has it; elsewhere they become floats on the way. Products of codes are integers that float32
holds, so both ways come to the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.extending import intrinsic

from rl.policy.compiled import compiled
from rl.policy.index_precision import ZERO
from rl.rollout.paged_keys import TILE

EIGHT = 8  # heads that meet a tile at once
AHEAD = 8192  # bytes between the keys that are read and those that are fetched: no CPU follows a table of blocks
NEAR = 32  # tiles that are still in a core's first cache when the next heads read them
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, TILE), ir.VectorType(_INT, TILE)
_PRODUCTS = "llvm.x86.avx512.vpdpbusd.256"  # of four bytes without sign and four with, added to an int32
_BYTES = ir.IntType(8).as_pointer()
_FUSED = ["contract", "nsz"]


def has_vnni() -> bool:
    """Whether this CPU multiplies bytes."""
    found = get_host_cpu_features()
    return bool(found.get("avxvnni") or (found.get("avx512vnni") and found.get("avx512vl")))


@intrinsic
def _add_tile(typing, scores, begin, q, first, w, keys, tile, soon):
    """scores[begin:begin+8] += sum of 8 heads' w ReLU(q . k), for the eight keys of a tile; the tile ``soon`` is
    fetched meanwhile. No array is sliced: numba counts references to slices.

    scores float32 [S], q [H, W] from head ``first`` on, w float32 [H], keys [tiles, W, 8]; q and keys contiguous and
      q float32 and keys float32
      q float32 [H, 4 W], codes as floats, and keys int32, four bytes each
      q int32 [H, W + 1], four codes each and what the sum begins with, and keys the same (VNNI)
    """

    def generate(context, builder, signature, arguments):
        kinds = dict(zip(("scores", "begin", "q", "first", "w", "keys", "tile", "soon"), signature.args, strict=True))
        values = dict(zip(kinds, arguments, strict=True))

        def array(name):
            return context.make_array(kinds[name])(context, builder, values[name])

        steps = cgutils.unpack_tuple(builder, array("keys").shape)[1]
        width = cgutils.unpack_tuple(builder, array("q").shape)[1]
        begin, first = values["begin"], values["first"]
        out = builder.gep(array("scores").data, [begin])
        queries = builder.gep(array("q").data, [builder.mul(first, width)])
        weights = builder.gep(array("w").data, [first])
        of_tile = builder.mul(steps, ir.Constant(steps.type, TILE))
        key, next_key = (
            builder.gep(array("keys").data, [builder.mul(values[name], of_tile)]) for name in ("tile", "soon")
        )
        codes = kinds["keys"].dtype == types.int32
        whole = codes and kinds["q"].dtype == types.int32
        kind, sums = (_INTS if whole else _FLOATS), []
        for head in range(EIGHT):
            start = ir.Constant(kind, [0] * TILE)
            if whole:
                start = _everywhere(builder, _number(builder, queries, head, width, steps), _INTS)
            sums.append(cgutils.alloca_once_value(builder, start))
        vectors, next_vectors = (
            builder.bitcast(place, (_INTS if codes else _FLOATS).as_pointer()) for place in (key, next_key)
        )
        fetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [_BYTES, _INT, _INT, _INT]), "llvm.prefetch.p0"
        )
        reading, kept, data = (ir.Constant(_INT, value) for value in (0, 3, 1))
        with cgutils.for_range(builder, steps) as loop:
            word = builder.load(builder.gep(vectors, [loop.index]), align=4)
            builder.call(fetch, [builder.bitcast(builder.gep(next_vectors, [loop.index]), _BYTES), reading, kept, data])
            parts = [word] if whole or not codes else [_code(builder, word, byte) for byte in range(4)]
            here = builder.mul(loop.index, ir.Constant(loop.index.type, len(parts)))
            for shift, part in enumerate(parts):
                at = builder.add(here, ir.Constant(here.type, shift))
                for head, held in enumerate(sums):
                    x = _everywhere(builder, _number(builder, queries, head, width, at), kind)
                    before = builder.load(held)
                    if whole:
                        products = cgutils.get_or_insert_function(
                            builder.module, ir.FunctionType(_INTS, [_INTS, _INTS, _INTS]), _PRODUCTS
                        )
                        builder.store(builder.call(products, [before, part, x]), held)
                    else:
                        product = builder.fmul(x, part, flags=_FUSED)
                        builder.store(builder.fadd(before, product, flags=_FUSED), held)
        place = builder.bitcast(out, _FLOATS.as_pointer())
        total, zero = builder.load(place, align=4), ir.Constant(_FLOATS, [0.0] * TILE)
        for head, held in enumerate(sums):
            found = builder.load(held)
            if whole:
                found = builder.sitofp(found, _FLOATS)
            found = builder.select(builder.fcmp_ordered("<", found, zero), zero, found)
            weight = builder.load(builder.gep(weights, [ir.Constant(_INT, head)]))
            scored = builder.fmul(_everywhere(builder, weight, _FLOATS), found, flags=_FUSED)
            total = builder.fadd(total, scored, flags=_FUSED)
        builder.store(total, place, align=4)
        return context.get_dummy_value()

    return types.void(scores, types.intp, q, types.intp, w, keys, types.intp, types.intp), generate


def _number(builder, numbers, head, width, at):
    row = builder.mul(width, ir.Constant(width.type, head))
    return builder.load(builder.gep(numbers, [builder.add(row, at)]))


def _everywhere(builder, x, kind):
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, x, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT, TILE), [0] * TILE))


def _code(builder, word, byte):
    """The codes in one byte of eight words, as floats."""
    shifted = builder.lshr(word, ir.Constant(_INTS, [8 * byte] * TILE))
    code = builder.and_(shifted, ir.Constant(_INTS, [255] * TILE))
    return builder.sitofp(builder.sub(code, ir.Constant(_INTS, [ZERO] * TILE)), _FLOATS)


@compiled()
def score(
    scores: Any, q: Any, w: Any, keys: Any, scales: Any, row: Any, part: Any, request: Any, seen: Any, blocks: Any,
    size: int,
) -> None:  # fmt: skip
    """scores [P, S] of the tokens ``part``; -inf for rows they do not see. ``q`` [T, H, W], ``w`` [T, H] with H a
    multiple of EIGHT, ``keys`` [tiles, W, 8], ``scales`` of the keys, or empty."""
    heads = q.shape[1]
    zero, hidden = np.float32(0), np.float32(-np.inf)
    of_block = size // 8
    away = max(1, AHEAD // (size * keys.shape[1] * 4))
    for i in range(len(part)):
        m = part[i]
        own, n = request[m], seen[m]
        line, queries, weights = scores[i], q[row[m]], w[row[m]]
        line[:] = zero
        tiles = (n + 7) // 8
        last = (tiles - 1) // of_block
        for begin in range(0, tiles, NEAR):
            end = min(begin + NEAR, tiles)
            for h in range(0, heads, EIGHT):
                block, inside = begin // of_block, begin % of_block
                for tile in range(begin, end):
                    place = blocks[own, block] * of_block + inside
                    soon = blocks[own, min(block + away, last)] * of_block + inside
                    _add_tile(line, tile * 8, queries, h, weights, keys, place, soon)
                    inside += 1
                    if inside == of_block:
                        block, inside = block + 1, 0
            if len(scales):
                for tile in range(begin, end):
                    place = (blocks[own, tile // of_block] * of_block + tile % of_block) * 8
                    for j in range(8):
                        line[tile * 8 + j] *= scales[place + j]
        line[n:] = hidden
