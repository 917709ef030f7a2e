"""The reward tests play episodes with the doubles of the rollout tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "rollout"))
