"""RL post-training for LLM agents; see docs/architecture.md."""

import os

# Learner and rollout engines share cores on small machines. OpenMP threads that spin at their barriers then starve each
# other (measured: an engine next to another CPU job fell from 2,500 to 105 tokens/s). It must be set before torch is
# imported, in every process, and every process imports this package first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
