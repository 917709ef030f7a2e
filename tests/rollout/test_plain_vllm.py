"""A policy of ours in plain vLLM, without this toolkit's engine: only the plugin that the package installs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rl.policy.loading import load_policy

pytestmark = pytest.mark.engine
BASE = Path(__file__).parents[2] / "rl" / "bases" / "tiny_dsa_base"
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    llm = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=256, kv_cache_memory_bytes=2**26)
    greedy = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    (out,) = llm.generate(["The price of Silver is"], greedy)
    print("FOUND", json.dumps([list(out.prompt_token_ids), list(out.outputs[0].token_ids)]))
"""


def test_it_generates_what_the_learner_s_model_does(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(BASE)], capture_output=True, text=True, timeout=600, check=False
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert found, done.stderr[-2000:]
    prompt, sampled = json.loads(found[0].removeprefix("FOUND "))
    policy, tokens = load_policy(BASE), list(prompt)
    with torch.no_grad():
        for _ in sampled:
            logits = policy.packed_logits(torch.tensor(tokens), [0, len(tokens)])
            tokens.append(int(logits[-1].argmax()))
    assert sampled == tokens[len(prompt) :]
