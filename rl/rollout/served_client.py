"""vLLM's AsyncLLM on an event loop of its own, asked from another thread: every wait has a limit, and ends when vLLM's
processes have died."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rl.rollout.config import RolloutConfig
from rl.rollout.engine_api import GenerateRequest
from rl.rollout.engine_arguments import OWNER_VARIABLE
from rl.rollout.engine_thread import EngineDied

if TYPE_CHECKING:
    from rl.policy.rendezvous import Rendezvous
    from rl.rollout.served_record import Ended

T = TypeVar("T")
WORKER = "rl.rollout.served_worker.RecordingWorker"
LOOK_S = 0.2  # between two looks at whether vLLM's processes live
SYNC_SHARE = 0.8  # of rollout.sync_s: a hung engine is told before the driver gives up on its worker


class ServedClient:
    """Starts vLLM's processes. Coroutines of it are for its ``loop``: give them to ``call``, from one other thread.

    Args:
        arguments: vLLM's (``rl.rollout.engine_arguments``).
        config: ranks, threads of each, and how long to wait (``start_s``, ``sync_s``).
    Raises:
        EngineDied: they did not start; they have written why to stderr.
    """

    def __init__(self, arguments: dict[str, Any], config: RolloutConfig) -> None:
        self.llm: Any = None
        self.salt = 0  # of the prefix cache: updates so far, for a version number may be reused with other weights
        self.loop = asyncio.new_event_loop()
        self._limit_s = config.sync_s * SYNC_SHARE
        self._wanted: dict[str, asyncio.Future[Ended]] = {}  # records to be fetched by the next call
        self._fetching: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, name="served engine", daemon=True)
        self._thread.start()
        try:
            self.call("start its processes", self._open(arguments, config), config.start_s)
        except BaseException:
            self.close()
            raise

    def call(self, what: str, coroutine: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """What ``coroutine`` gives. Raises EngineDied when it fails, when vLLM's processes die, or after ``seconds``
        (None: the share of ``rollout.sync_s``)."""
        limit = self._limit_s if seconds is None else seconds
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        ends = time.monotonic() + limit
        while True:
            try:
                return future.result(LOOK_S)
            except TimeoutError as error:
                if future.done():
                    if future.exception() is None:  # it has come in between
                        continue
                    raise EngineDied(f"vLLM failed to {what}: {said(error)}") from error
                self.check_alive(what)
                if time.monotonic() > ends:
                    future.cancel()
                    raise EngineDied(f"vLLM did not {what} within {limit:.0f} s") from None
            except Exception as error:  # vLLM's own kinds, and those of its processes as text
                raise EngineDied(f"vLLM failed to {what}: {said(error)}") from error

    def ranks(self, what: str, method: str, *args: Any) -> list[Any]:
        """``method(*args)`` of ``rl.rollout.served_worker.RecordingWorker``, on every rank; what each says."""
        return self.call(what, self.llm.collective_rpc(method, args=args))

    def check_alive(self, what: str) -> None:
        """Raise EngineDied when vLLM's processes have ended."""
        if self.llm is not None and self.llm.errored:
            raise EngineDied(f"vLLM's processes have ended, and were to {what}; they have written why to stderr")

    def close(self) -> None:
        """End vLLM's processes."""
        llm, self.llm = self.llm, None
        if llm is not None:
            llm.shutdown(timeout=3.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)

    # -- on the loop -----------------------------------------------------------------------------

    async def ask(
        self, request: GenerateRequest, params: dict[str, Any], own_id: asyncio.Future[str] | None = None
    ) -> tuple[Any, str]:
        """vLLM's last output for a request, and its own id of it, which ``own_id`` gets as soon as it is known."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(**params, detokenize=False, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY)
        prompt: Any = {"prompt_token_ids": list(request.prompt_tokens), "cache_salt": str(self.salt)}
        collector = await self.llm.add_request(request.request_id, prompt, sampling)
        if own_id is not None:
            own_id.set_result(collector.request_id)
        return await collector.get(), collector.request_id

    async def update(self, path: str, places: list[Any], version: int) -> list[str]:
        """Weights that lie at ``path`` (``rl.rollout.shared_weights``) into every rank, between two steps: vLLM ends
        the one in flight, and holds its requests. What each rank says against them; nothing when it has taken them."""
        await self.hold()
        answers: list[str] = await self.llm.collective_rpc("take_weights", args=(path, places))
        if any(answers):
            await self.llm.resume_generation()
        else:
            await self.taken(version)
        return answers

    async def receive(self, meeting: Rendezvous, first_rank: int, host: str) -> list[list[Any]]:
        """Weights that come in a stream, into every rank; requests are held from now on. What each rank says
        (``rl.rollout.taking.Answer``)."""
        await self.hold()
        answers: list[list[Any]] = await self.llm.collective_rpc(
            "receive_weights", args=(vars(meeting), first_rank, host)
        )
        return answers

    async def hold(self) -> None:
        """Let vLLM end the step in flight, and hold its requests with their cache."""
        await self.llm.pause_generation(mode="keep", clear_cache=False)

    async def taken(self, version: int) -> None:
        """Go on with weights that every rank has taken."""
        await self.llm.update_weight_version(str(version))
        self.salt += 1
        await self.llm.reset_prefix_cache()  # as far as nobody uses it: the salt hides the rest
        await self.llm.resume_generation()

    async def record_of(self, own_id: str) -> Ended:
        """What was recorded of a request that has ended. A call waits for the step in flight, so all that end
        meanwhile share the next one."""
        answer: asyncio.Future[Ended] = self.loop.create_future()
        self._wanted[own_id] = answer
        if self._fetching is None or self._fetching.done():
            self._fetching = self.loop.create_task(self._fetch())
        return await answer

    async def _fetch(self) -> None:
        from rl.rollout.served_record import Ended

        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            try:
                plain = (await self.llm.collective_rpc("take_record", args=(list(wanted),)))[0]
                found = {own_id: Ended.of(plain[own_id]) for own_id in wanted}
            except Exception as error:
                for answer in wanted.values():
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for own_id, answer in wanted.items():
                if not answer.done():  # else nobody waits any longer
                    answer.set_result(found[own_id])

    async def _open(self, arguments: dict[str, Any], config: RolloutConfig) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        ranks = config.tensor_parallel
        engine = AsyncEngineArgs(
            **arguments,
            skip_tokenizer_init=True,
            tensor_parallel_size=ranks,
            distributed_executor_backend="uni" if ranks == 1 else "mp",
            worker_cls=WORKER,
        )
        with _inherited(config):
            self.llm = AsyncLLM.from_engine_args(engine)
        await self.llm.update_weight_version("0")


@contextmanager
def _inherited(config: RolloutConfig) -> Iterator[None]:
    """What vLLM's processes find in their environment; this one's is as before after the block."""
    values = {
        OWNER_VARIABLE: str(os.getpid()),
        "OMP_NUM_THREADS": str(config.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # cores are shared with the learner and other workers
        # One rank is in the process of the scheduler; on CPUs vLLM would otherwise give it another one.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if config.tensor_parallel == 1 else "1",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(config.start_s) + 1),
        "VLLM_HOST_IP": "127.0.0.1",  # ranks of one engine are on one machine
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}"
