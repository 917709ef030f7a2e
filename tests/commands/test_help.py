"""--help has a line for every setting, and its choices."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_process import command

from configs.schema import SCHEMAS
from rl.bounds import field_types
from rl.commands.help import WIDTH, help_text
from rl.commands.override_errors import keys


@pytest.mark.parametrize("config_name", sorted(SCHEMAS))
def test_every_setting_has_its_line(config_name: str) -> None:
    text = help_text(config_name)
    lines = text.splitlines()
    schema = SCHEMAS[config_name]
    groups = {key for key in keys(schema) if any(k.startswith(f"{key}.") for k in keys(schema))}
    for key in set(keys(schema)) - groups:
        (line,) = (line for line in lines if line.startswith(f"  {key}="))
        assert len(line.split("  ")) > 2, f"{key} has no meaning"
    assert groups <= set(lines)
    assert max(map(len, lines)) <= WIDTH
    assert len(field_types(schema)) >= 3


def test_choices_and_the_values_that_a_run_gets(tmp_path: Path) -> None:
    done = command("rl-train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.output == help_text("train") + "\n"
    assert "\n  policy: deepseek_v32, hf, tiny_dsa\n" in done.output
    assert "\n  prompts_per_step=16  " in done.output  # of the demo overlay
    assert "\n  group_size=8                            rollouts per task; the advantage is" in done.output
