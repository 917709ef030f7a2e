"""Where a test runs: on the CPU in every run of the tests, on a GPU with ``-m gpu``."""

from __future__ import annotations

import pytest
import torch

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
GPU = [pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
