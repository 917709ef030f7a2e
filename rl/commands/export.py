"""`rl-export`: a policy written again in another form (``rl.policy.checkpoint_export``).

rl-export path=runs/demo-0/policy out=policy_bf16                  bfloat16, to be served or uploaded
rl-export path=models/DeepSeek-V3.2 out=plain dtype=float32        plain weights of an FP8 checkpoint, to be trained
rl-export path=runs/demo-0/policy out=policy_fp8 dtype=float8      FP8 blocks, for engines
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import ExportConfig


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("export", run)


def run(cfg: ExportConfig) -> None:
    from rl.commands.hydra import line_reporter
    from rl.policy.checkpoint_export import export
    from rl.run.paths import output_directory, policy_directory
    from rl.run.preflight import configuration

    with configuration():
        source, out = policy_directory("path", cfg.path), output_directory("out", cfg.out)
        if source.resolve() in (out.resolve(), *out.resolve().parents):
            raise ValueError(f"out={cfg.out}: is inside path={cfg.path}; give another directory")
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"out={cfg.out}: there is something in it; give a new directory")
        report = line_reporter()
        for done, total in export(source, out, cfg.dtype, int(cfg.shard_gb * 1e9)):
            report("MB", done // 1_000_000, total // 1_000_000, {})
    print(f"saved {cfg.out}: {done:,} bytes in {cfg.dtype}")


if __name__ == "__main__":
    main()
