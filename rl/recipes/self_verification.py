"""Self-verification training (DeepSeekMath-V2, arXiv 2511.22570): `rl-train experiment=self_verification`.

    meta       GRPO on `assess`: a first meta-verifier, without which R_meta would be noise
    for each iteration
      verify   GRPO on `verify` and `assess`: R_format · R_score (· R_meta), labels of the program and of earlier rounds
      judge    the run's judge takes the verifier's weights: verifier and meta-verifier of what follows
      prove    GRPO from the verifier's weights on `prove` and `refine`: R_format · (0.76 R_Y + 0.24 R_Z), where R_Y
               and R_meta are that judge's, no ground truth
      label    proofs of new problems, labelled by n analyses, m assessments, k confirmations: tasks for the next verify
      merge    rejection fine-tuning on what both roles did right: where the next iteration starts

Ground truth (``score/outcome``: a program knows every verdict) is only measured. What is learned from labels made
without people is counted against it. Records of finished stages are in ``stages/``, so that ``resume=<run>`` goes on
with the first unfinished one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from envs.closure import code_hash
from envs.proof.prompts import ShortPrompts
from envs.proof.texts import parse_evaluation, parse_generation
from envs.waiting import result_of
from rewards.proof_roles import ProofRoles
from rl.data.corpus import load_data, save_data
from rl.learner.trainer import Means
from rl.proof.labels import label_proofs
from rl.proof.measure import role_figures
from rl.recipes.distill import FIGURES, distill
from rl.recipes.evaluation_stage import evaluation_stage
from rl.recipes.stages import grpo_stage, learner_of, workers
from rl.rollout.judge_actor import WorkerJudge
from rl.rollout.orders import GroupSpec
from rl.run.assemble import open_taskset
from rl.run.job import Job, figures_of, reporter
from rl.run.ledger import RolloutMeter
from rl.run.stage_cache import StageResult, cached_stage, tree_hash
from rl.tracking.rundir import RunDir, write_atomic
from rl.tracking.usage import tally
from rl.types import OUTCOME

if TYPE_CHECKING:
    from configs.schema import SelfVerificationConfig, TrainConfig
    from envs.taskset import Taskset
    from rl.rollout.pool import RolloutPool
    from rl.tracking.progress import Stage
    from rl.types import Trajectory

T = TypeVar("T")
FAMILIES = {"meta": ("assess",), "verify": ("verify", "assess"), "prove": ("prove", "refine")}
NAMES = {"meta": "meta-verifier", "verify": "verifier", "prove": "prover"}
BEFORE = "evaluation before"
RECORD = "stage.json"


def stage_names(config: SelfVerificationConfig) -> list[str]:
    """What the progress display lists, in order."""
    names = [BEFORE]
    for i in range(1, config.iterations + 1):
        roles = ("meta", "verify", "prove") if i == 1 and config.meta_steps else ("verify", "prove")
        names += [name for role in roles for name in (_grpo(i, role), _evaluate(i, role))]
        names += [_label(i)] + ([_merge(i)] if i < config.iterations else [])
    return names


def self_verification(job: Job, start: StageResult, opening: Future[RolloutPool]) -> None:
    """All iterations from ``start``; the last prover is ``<run>/policy``, figures go into ``job.summary``."""
    cfg = job.cfg.self_verification
    found: dict[str, Any] = {"iterations": []}
    job.summary["self_verification"] = found
    with workers(job, opening) as pool:
        _judge_takes(job, start.path)
        with learner_of(job, start.path, job.rundir.path) as learner:
            job.summary["eval_before"] = evaluation_stage(job, BEFORE, "eval_before", pool, learner=learner)
        found["before"] = _figures(job, BEFORE, "eval_before")
        policy, rows = start.path, None
        for i in range(1, cfg.iterations + 1):
            steps = _Iteration(job, pool, i)
            if i == 1 and cfg.meta_steps:
                meta = steps.train("meta", policy)
                found["meta"], policy = meta["figures"], Path(meta["policy"])
            _judge_takes(job, policy)  # R_meta of the verifier is by what it starts from
            verifier = steps.train("verify", policy, rows)
            found["iterations"].append({"verifier": verifier["figures"]})
            _judge_takes(job, Path(verifier["policy"]))
            prover = steps.train("prove", Path(verifier["policy"]))
            found["iterations"][-1] |= {"prover": prover["figures"], "grpo": prover["grpo"]}
            labels = steps.label()
            found["iterations"][-1]["labels"] = labels["counts"]
            job.write()
            rows, policy = Path(labels["rows"]), Path(prover["policy"])
            if i < cfg.iterations:
                policy = steps.merge(policy, Path(labels["data"]))
        job.summary["eval_after"] = prover["evaluation"]
        job.summary |= prover["grpo"] | {"workers": pool.stats()}
    _copy_policy(Path(prover["policy"]), job.rundir.path / "policy")


@dataclass
class _Iteration:
    """The stages of iteration ``number``."""

    job: Job
    pool: RolloutPool
    number: int
    files: dict[str, RunDir] = field(default_factory=dict)

    def train(self, role: str, start: Path, rows: Path | None = None) -> dict[str, Any]:
        """GRPO from ``start`` on a role's families, then held-out evaluation of all. Recorded when it is done."""
        job, i = self.job, self.number
        files = RunDir(job.rundir.path / "stages" / f"{i}-{role}")
        record, name = files.path / RECORD, f"{role}-{i}"
        title, evaluation = _grpo(i, role), _evaluate(i, role)
        if record.is_file():
            for done in (title, evaluation):
                job.progress.reused(done, str(files.path))
            stored: dict[str, Any] = json.loads(record.read_text())
            return stored
        config = job.cfg.self_verification
        steps = {"meta": config.meta_steps, "verify": config.verify_steps, "prove": config.prove_steps}[role]
        prompts = config.prove_prompts if role == "prove" else config.verify_prompts
        cfg: TrainConfig = replace(job.cfg, steps=steps, prompts_per_step=prompts)
        taskset = self.taskset(FAMILIES[role], rows)
        with learner_of(job, start, files.path) as learner:
            state = grpo_stage(job, title, f"grpo/{name}", cfg, learner, self.pool, taskset, files)
            learner.save_policy(files.path / "policy")
            result = {
                "policy": str(files.path / "policy"),
                "grpo": state.summary(),
                "evaluation": evaluation_stage(job, evaluation, f"eval_{name}", self.pool),
            }
        result["figures"] = _figures(job, evaluation, f"eval_{name}")
        write_atomic(record, json.dumps(result, indent=1) + "\n")
        return result

    def taskset(self, families: Sequence[str], rows: Path | None = None, offset: int = 0) -> Taskset:
        """The training mixture of some families of ``env``; another seed in every iteration, so that tasks are new."""
        env = dict(self.job.cfg.env)
        weights = {f: env["families"][f] for f in families if env["families"].get(f, 0) > 0}
        settings = {f: dict(s) for f, s in env.get("settings", {}).items() if f in weights}
        if rows is not None and "verify" in weights and rows.stat().st_size:
            share = self.job.cfg.self_verification.rows_share
            settings["verify"] = settings.get("verify", {}) | {"rows": str(rows), "rows_share": share}
        seed = self.job.cfg.seed + 1000 * self.number + offset
        return open_taskset(env | {"families": weights, "settings": settings}, "train", seed)

    def label(self) -> dict[str, Any]:
        """Proofs of new problems by the present prover, and their labels by the judge: rows for the next verifier, and
        the data of the merge (proofs labelled 1 whose writers said so, evaluations that met their label)."""
        job, i, title = self.job, self.number, _label(self.number)
        cfg = job.cfg.self_verification
        files = job.rundir.path / "stages" / f"{i}-label"
        record = files / RECORD
        if record.is_file():
            job.progress.reused(title, str(files))
            stored: dict[str, Any] = json.loads(record.read_text())
            return stored
        files.mkdir(parents=True, exist_ok=True)
        with job.progress.stage(title, total=2 * cfg.label_problems) as stage:
            meter = RolloutMeter(job.ledger.cost, self.pool)
            proofs = self._rollouts(("prove",), cfg.label_samples, stage, 0)
            judged = self._rollouts(("verify",), 1, stage, cfg.label_problems)
            written = [(t, parse_generation(_answer(t))) for t in proofs if t.failure_kind is None]
            usable = [(t, g) for t, g in written if g.ok]
            roles = ProofRoles(WorkerJudge(job.cfg.judge.name), ShortPrompts())
            problems = [str(t.messages[1]["content"]) for t, _ in usable]
            pairs = [(problem, g.solution) for problem, (_, g) in zip(problems, usable, strict=True)]
            labels = result_of(label_proofs(pairs, roles.verify, roles.assess, cfg.labels))
            rows, kept = [], []
            counts = {"proofs": len(proofs), "well_formed": len(usable), "labelled": 0, "right": 0, "score_1": 0}
            for (t, g), (problem, solution), label in zip(usable, pairs, labels, strict=True):
                counts[label.reason] = counts.get(label.reason, 0) + 1
                if label.score is None:
                    continue
                rows.append({"problem": problem, "solution": solution, "label": label.score})
                counts["labelled"] += 1
                counts["right"] += label.score == t.reward_parts["score/truth"]  # measured only
                counts["score_1"] += label.score == 1.0
                if label.score == 1.0 and g.self_score == 1.0:
                    kept.append(t)
            good = [t for t in judged if t.failure_kind is None and _meets_label(t)]
            counts |= {"kept_proofs": len(kept), "kept_evaluations": len(good)}
            write_atomic(files / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            save_data(files / "data", [*kept, *good])
            job.rundir.log_trajectories(f"label_{i}", [*proofs, *judged], tokens=job.cfg.tracking.save_tokens)
            job.ledger.put(title, "data", rollout=meter.read([*proofs, *judged]))
            job.usage.put(title, "data", tally([*proofs, *judged]))
            stage.update(2 * cfg.label_problems, note=f"{counts['labelled']} of {counts['proofs']} proofs labelled")
        result = {"rows": str(files / "rows.jsonl"), "data": str(files / "data"), "counts": counts}
        write_atomic(record, json.dumps(result, indent=1) + "\n")
        return result

    def merge(self, policy: Path, data: Path) -> Path:
        """Rejection fine-tuning of the prover on the data of both roles; without data the prover itself."""
        job, cfg = self.job, self.job.cfg.self_verification
        documents = load_data(data)
        if not documents:
            job.progress.reused(_merge(self.number), "no data: nothing met its label")
            return policy
        inputs = {
            "policy": tree_hash(policy), "data": tree_hash(data), "merge": asdict(cfg.merge), "seed": job.cfg.seed,
            "code": code_hash(distill),
        }  # fmt: skip

        name = f"{self.number}-merge"

        def produce(out: Path, stage: Stage) -> None:
            report = reporter(stage, name, job.rundir)
            distill(policy, cfg.merge, documents, job.cfg.seed, out, report, Means.of(job.cfg))

        title, stages = _merge(self.number), job.rundir.path / "stages"
        result = cached_stage(title, name, inputs, stages, job.progress, produce)
        figures = figures_of(result.path, FIGURES)
        job.ledger.put(title, "supervised", learner=job.ledger.cost.supervised(figures))
        return result.path

    def _rollouts(self, families: Sequence[str], samples: int, stage: Stage, done: int) -> list[Trajectory]:
        """``label_problems`` groups of new tasks, in order."""
        count = self.job.cfg.self_verification.label_problems
        taskset = self.taskset(families, offset=500)
        specs = [GroupSpec(n, taskset.task(n), n, samples, self.pool.version, records=False) for n in range(count)]
        deadline_s = self.job.cfg.step_deadline_s
        groups = self.pool.run(specs, deadline_s, lambda back, group: stage.update(done + back))
        return [t for group in groups for t in group.trajectories]


def _figures(job: Job, title: str, name: str) -> dict[str, float]:
    """What a held-out evaluation says about the roles; also a row of metrics.jsonl, numbered in order."""
    rows = job.rundir.read_trajectories(name)
    figures = role_figures(rows)
    names = [n for n in stage_names(job.cfg.self_verification) if n.startswith("evaluation")]
    job.log("selfverify", names.index(title), {f"proof/{k}": v for k, v in figures.items()})
    return figures


def _answer(t: Trajectory) -> str:
    last = t.messages[-1]
    return str(last.get("content", "")) if last["role"] == "assistant" else ""


def _meets_label(t: Trajectory) -> bool:
    """An evaluation whose score is its label and whose analysis the meta-verifier did not refute."""
    parts: Mapping[str, float] = t.reward_parts
    return parse_evaluation(_answer(t)).ok and parts.get("verifier", 0.0) >= 1.0 and OUTCOME in parts


def _copy_policy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target, dirs_exist_ok=True)


def _judge_takes(job: Job, policy: Path) -> None:
    result_of(WorkerJudge(job.cfg.judge.name).load(policy))


def _grpo(i: int, role: str) -> str:
    return f"GRPO {NAMES[role]} {i}"


def _evaluate(i: int, role: str) -> str:
    return f"evaluation {NAMES[role]} {i}"


def _label(i: int) -> str:
    return f"labels {i}"


def _merge(i: int) -> str:
    return f"merge {i}"
