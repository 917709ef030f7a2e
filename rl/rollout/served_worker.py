"""vLLM's worker as a served engine needs it: one for every rank, in a process that vLLM starts.

It keeps weights plain (``rl.rollout.vllm_weights``), so that an update is a copy; records what the first rank's model
chooses; and ends when the rollout worker that wanted it has ended, however that came.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

import psutil
import torch
from vllm.platforms import current_platform
from vllm.utils.import_utils import resolve_obj_by_qualname

from rl.policy.rendezvous import Rendezvous
from rl.policy.weight_stream import Links
from rl.rollout.engine_api import rank_meeting
from rl.rollout.engine_arguments import OWNER_VARIABLE
from rl.rollout.served_record import Plain, ServedRecord
from rl.rollout.shared_weights import Place, read_shared
from rl.rollout.taking import PEER, Answer, send_own, take_stream, taker_of
from rl.rollout.vllm_experts import ExpertsRecorder, keep_experts_plain
from rl.rollout.vllm_rotary import rotate_heads_right
from rl.rollout.vllm_sampler import install_sampler
from rl.rollout.vllm_weights import keep_weights_plain, update_model

_CLASS = "vllm.v1.worker.cpu_worker.CPUWorker" if current_platform.is_cpu() else "vllm.v1.worker.gpu_worker.Worker"
Worker: Any = resolve_obj_by_qualname(_CLASS)


class RecordingWorker(Worker):  # type: ignore[misc]
    """See the module. What ``rl.rollout.served_engine`` calls is called on every rank."""

    _record: ServedRecord | None = None  # of the first rank, once it is asked for

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        end_with(int(os.environ[OWNER_VARIABLE]))
        self._links = Links()
        super().__init__(*args, **kwargs)

    def load_model(self, **kwargs: Any) -> None:
        keep_weights_plain()
        keep_experts_plain()
        rotate_heads_right()
        super().load_model(**kwargs)

    def execute_model(self, scheduler_output: Any) -> Any:
        if self._record is not None:
            self._record.ordered(scheduler_output)
        return super().execute_model(scheduler_output)

    def sample_tokens(self, grammar_output: Any) -> Any:
        output = super().sample_tokens(grammar_output)
        if self._record is not None:
            self._record.drawn()
        return output

    def start_record(self, names: list[str], indexer: bool) -> Plain:
        """Once the cache is there. ``names``: what an update has to bring; ``indexer``: record its choices too.

        Returns what this engine can record: ``experts`` and ``indexer``, bool.
        """
        self._names = set(names)
        runner: Any = self.model_runner
        model = runner.get_model()
        sampler = install_sampler(runner)
        self._experts: torch.Tensor | None = None
        has_indexer = hasattr(model, "indexer_table")
        block_size = runner.cache_config.block_size
        if getattr(getattr(model, "dsa", None), "num_moe_layers", 0):
            self._experts = model.make_experts_table()
        elif not has_indexer and self.rank == 0:
            recorder = ExpertsRecorder.watch(model, runner.kv_cache_config.num_blocks * block_size)
            self._experts = None if recorder is None else recorder.table
        self.record_indexer(indexer and has_indexer)
        if self.rank == 0:
            self._record = ServedRecord(runner, sampler, self._tables, block_size)
        return {"experts": self._experts is not None, "indexer": has_indexer}

    def record_indexer(self, on: bool) -> None:
        model: Any = self.model_runner.get_model()
        if on and model.indexer_table is None:
            model.make_indexer_table(self.model_config.max_model_len)
        if hasattr(model, "indexer_table"):
            model.record_indexer = on

    def take_record(self, names: list[str]) -> dict[str, Plain] | None:
        """See ``ServedRecord.take``; None on other ranks than the first."""
        return None if self._record is None else self._record.take(names)

    def steps_done(self) -> int:
        """Steps with tokens, since the record was started."""
        return 0 if self._record is None else self._record.steps

    def take_weights(self, path: str, places: list[Place]) -> str:
        """Copy the weights that lie at ``path`` (``rl.rollout.shared_weights``); what is wrong with them, by name, or
        nothing."""
        try:
            update_model(self.model_runner.get_model(), read_shared(path, places), self._names)
        except ValueError as error:
            return str(error)
        return ""

    def receive_weights(self, meeting: dict[str, Any], first_rank: int, host: str) -> list[Any]:
        """This rank's part of ``RolloutEngine.receive_weights``: what ``Answer.plain`` is."""
        at, rank = Rendezvous(**meeting), first_rank + self.rank
        if at.source == PEER:
            at, rank = rank_meeting(at, self.rank), 1
        taker = taker_of(self.model_runner.get_model(), at, self._names)
        action = partial(take_stream, self._links, taker, at, rank, host, self.device)
        return Answer.to(action, lambda: taker.begun).plain

    def send_weights(self, meeting: dict[str, Any], host: str) -> list[Any]:
        """This rank's part of ``RolloutEngine.send_weights``."""
        at, model = rank_meeting(Rendezvous(**meeting), self.rank), self.model_runner.get_model()
        return Answer.to(partial(send_own, self._links, model, at, host, self.device)).plain

    def _tables(self) -> dict[str, torch.Tensor]:
        model: Any = self.model_runner.get_model()
        tables = {} if self._experts is None else {"experts": self._experts}
        if getattr(model, "record_indexer", False):
            tables["indexer"] = model.indexer_table
        return tables


def end_with(owner: int) -> None:
    """This process ends when the process ``owner`` has, and takes the one between them along: that is vLLM's own, and
    nobody else would end it when its owner was killed."""
    between = os.getppid()
    process = psutil.Process(owner)

    def watch() -> None:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(1.0)
        if between != owner and os.getppid() == between:
            with suppress(ProcessLookupError):
                os.kill(between, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="owner", daemon=True).start()
