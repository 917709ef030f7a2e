"""Weights in memory without a name: other processes read what was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

from rl.rollout.shared_weights import read_shared, shared

READ = """
import json, sys
from rl.rollout.shared_weights import read_shared
read = read_shared(*json.loads(sys.argv[1]))
print(json.dumps({name: [str(t.dtype), t.float().tolist()] for name, t in read.items()}))
"""


def test_another_process_reads_every_tensor() -> None:
    head = torch.randn(3, 5)
    named = {
        "embed": head,
        "head": head,  # tied
        "half": torch.randn(7).bfloat16(),
        "turned": torch.randn(4, 6).t(),
        "count": torch.tensor(41),
        "none": torch.zeros(0, 3),
    }
    with shared(named) as (path, places):
        assert places[0][3] == places[1][3]
        assert all(first % 64 == 0 for *_, first in places)
        out = subprocess.run(
            [sys.executable, "-c", READ, json.dumps([path, places])], capture_output=True, text=True, check=True
        ).stdout
        own = read_shared(path, places)
    assert json.loads(out) == {name: [str(t.dtype), t.float().tolist()] for name, t in named.items()}
    assert not os.path.exists(path)
    assert all(torch.equal(own[name], value) for name, value in named.items())  # who has it open keeps it
    assert [place[0] for place in places] == list(named)
