"""A mini-swe-agent as it is: python library_mini_swe.py BASE_URL."""

import os
import sys
import tempfile

os.environ |= {
    "MSWEA_COST_TRACKING": "ignore_errors",
    "MSWEA_SILENT_STARTUP": "1",
    "MSWEA_CONFIGURED": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
from pathlib import Path

import minisweagent
import yaml
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel

config = yaml.safe_load((Path(minisweagent.__file__).parent / "config" / "mini.yaml").read_text())
kept = ("system_template", "instance_template", "step_limit", "cost_limit")
settings = config["model"]
settings["model_kwargs"] = {**settings.get("model_kwargs", {}), "api_base": sys.argv[1], "api_key": "none"}
settings.pop("model_class", None)
model = LitellmModel(model_name="openai/policy", **settings)
place = LocalEnvironment(cwd=tempfile.mkdtemp(), timeout=10)
agent = DefaultAgent(model, place, **{k: v for k, v in config["agent"].items() if k in kept})
print("ANSWER", agent.run("What do two pears cost?")["submission"].strip())
