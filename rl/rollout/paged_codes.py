"""The indexer's keys and queries as 8-bit codes (``rl.policy.index_precision``), on a CPU in float32: loops compiled by
numba (a part of vLLM), a step's rows in a few microseconds where torch's operators take as long each."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl.policy.compiled import compiled
from rl.policy.index_precision import EXPONENT, MOST, ONE, ZERO


@compiled()
def encode_rows(x: Any, codes: Any, scale: Any, zero: int) -> None:
    """``rl.policy.index_precision.encode`` of float32 [N, d]: codes, ``zero`` added, to ``codes`` [N, >= d], and scales
    to float32 [N]. Rows that are no numbers get some code, and NaN for a scale."""
    bits = scale.view(np.int32)
    for n in range(len(x)):
        largest = np.float32(0)
        for d in range(x.shape[1]):
            largest = max(largest, abs(x[n, d]))
            if not abs(x[n, d]) < np.inf:
                largest = np.float32(np.inf)
        scale[n] = largest
        exponent = bits[n] & EXPONENT
        bits[n] = max(exponent - 6 * ONE, ONE)
        for d in range(x.shape[1]):
            code = min(max(np.rint(x[n, d] / scale[n]), np.float32(-MOST)), np.float32(MOST))
            codes[n, d] = np.int32(code) + zero
        if exponent == EXPONENT:
            scale[n] = np.nan


@compiled()
def query_words(q: Any, w: Any, words: Any, weights: Any) -> None:
    """Of queries [T, H, d] and weights [T, H]: ``words`` int32 [T, H', W + 1] as VNNI wants them, and ``weights``
    [T, H'] times the scales. What is beyond H and d is 0 before."""
    last = words.shape[2] - 1
    scale = np.empty(q.shape[1], np.float32)
    for t in range(len(q)):
        codes = words[t].view(np.int8)
        encode_rows(q[t], codes, scale, 0)
        for h in range(q.shape[1]):
            weights[t, h] = w[t, h] * scale[h]
            total = 0
            for d in range(q.shape[2]):
                total += codes[h, d]
            words[t, h, last] = -ZERO * total  # of the keys' bytes each is so much more than its code
