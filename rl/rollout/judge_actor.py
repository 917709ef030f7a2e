"""The run's own judge: one vLLM engine in a Ray actor, asked from anywhere in the run.

``JudgeActor`` holds the engine; ``WorkerJudge`` is the handle that reward parts carry. The actor renders messages with
its own chat format, and whatever is asked meanwhile shares the next engine step: a call costs no more than its tokens.
``load`` brings other weights of the same architecture between two steps, for a judge that is itself trained.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from envs.types import Message
from rewards.judge import Completion, JudgeError, without_control
from rl.rollout.config import JudgeConfig
from rl.rollout.engine_thread import EngineDied, EngineThread

if TYPE_CHECKING:
    import ray

    from rl.rollout.engine import Engine

T = TypeVar("T")


class JudgeActor:
    """A Ray actor; calls overlap, all of them in one engine.

    Args:
        model_dir: the judge's model, Hugging Face format.
        open_renderer: makes its chat renderer; called here (must pickle).
        python_path: the driver's ``sys.path``.
    """

    def __init__(
        self, config: JudgeConfig, model_dir: str, open_renderer: Callable[[], Any], python_path: Sequence[str] = ()
    ) -> None:
        sys.path += [path for path in python_path if path not in sys.path]
        self.config, self._model_dir = config, model_dir
        self._renderer = open_renderer()
        self._control = _special_tokens(model_dir)
        self._thread: EngineThread | None = None
        self._serial = itertools.count()
        self._waiting = 0
        self._loads = 0

    async def ready(self) -> dict[str, float]:
        """Return when the engine is up. Raises EngineDied when it cannot start."""
        return await self.stats()

    async def complete(
        self,
        messages: Sequence[Message],
        n: int = 1,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Completion]:
        """See ``rewards.judge.Judge``. Raises JudgeError for a request that cannot be served, EngineDied."""
        from rl.chat.renderer import RenderError

        thinking = self.config.thinking and schema is None
        try:
            plain = [replace(m, content=without_control(m.content, self._control)) for m in messages]
            prompt = self._renderer.render(plain, thinking=thinking)
        except RenderError as error:
            raise JudgeError(f"the judge's chat format cannot express this: {error}") from error
        budget = self.config.max_tokens if max_tokens is None else max_tokens
        room = self.config.max_context - len(prompt)
        if room < 1 or budget < 1:
            raise JudgeError(
                f"the judge's prompt has {len(prompt)} tokens and max_tokens={budget}, judge.max_context="
                f"{self.config.max_context}: raise it, or show the judge less (rubric.max_chars)"
            )
        once = partial(self._once, prompt, min(budget, room), temperature, schema, thinking)
        self._waiting += n
        try:
            return list(await asyncio.gather(*(once() for _ in range(n))))
        except ValueError as error:  # the engine refused this request
            raise JudgeError(f"the judge cannot be asked this: {error}") from error
        finally:
            self._waiting -= n

    async def load(self, policy_dir: str) -> float:
        """Take the weights of ``policy_dir`` between two engine steps; the seconds it took.

        Answers in flight continue under the new weights; await them first where that matters.
        Raises JudgeError: no such policy, another tokenizer, or other tensors; the engine keeps its weights then.
        """
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            _same_tokenizer(self._model_dir, policy_dir)
            weights = await loop.run_in_executor(None, _weights_of, policy_dir)
            self._loads += 1
            await self._engine.call(lambda engine: engine.update_weights(weights, self._loads))
        except (OSError, ValueError, KeyError) as error:
            raise JudgeError(f"the judge cannot take the weights of '{policy_dir}': {error}") from error
        return time.perf_counter() - started

    async def stats(self) -> dict[str, float]:
        """Totals of the engine, ``waiting`` (answers not finished yet), ``loads`` (weights taken)."""
        engine = asdict(await self._engine.call(lambda engine: engine.stats()))
        return engine | {"waiting": float(self._waiting), "loads": float(self._loads)}

    async def waiting(self) -> int:
        """Answers that are not finished yet; answers even when the engine hangs."""
        return self._waiting

    async def close(self) -> None:
        """Release the engine before the actor is killed."""
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.close)

    @property
    def _engine(self) -> EngineThread:
        if self._thread is None:  # made on first use: Ray's event loop is not running in __init__ yet
            self._thread = EngineThread(self._open_engine)
        return self._thread

    def _open_engine(self) -> Engine:
        from rl.rollout.engine import Engine  # vLLM and torch are imported in the engine's thread

        return Engine(Path(self._model_dir), self.config, structured=True)

    async def _once(
        self,
        prompt: list[int],
        max_tokens: int,
        temperature: float | None,
        schema: dict[str, Any] | None,
        thinking: bool,
    ) -> Completion:
        from rl.rollout.engine_api import GenerateRequest

        request = GenerateRequest(
            request_id=str(next(self._serial)),
            prompt_tokens=prompt,
            max_tokens=max_tokens,
            stop_token_ids=tuple(self._renderer.stop_token_ids),
            temperature=self.config.temperature if temperature is None else temperature,
            top_p=self.config.top_p,
            json_schema=schema,
        )
        sampled = await self._engine.generate(request)
        message = self._renderer.parse(sampled.tokens, thinking=thinking, ended=sampled.finish_reason == "stop")
        return Completion(message.content, message.reasoning, sampled.finish_reason, len(prompt), len(sampled.tokens))


@dataclass(frozen=True)
class WorkerJudge:
    """The handle on the run's ``JudgeActor``: pickles, and finds the actor by name when it is first asked."""

    name: str = "judge"  # judge.name of the run
    timeout_s: float = 300.0  # of one call, time in the engine's queue included

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"judge.client.timeout_s={self.timeout_s}: must be above 0 seconds")

    def __reduce__(self) -> Any:
        return WorkerJudge, (self.name, self.timeout_s)

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Completion]:
        """See ``rewards.judge.Judge``."""
        what = f"to answer {n} time(s)"
        return await self._call(what, lambda actor: actor.complete.remote(messages, n, max_tokens, temperature, schema))

    async def load(self, policy_dir: str | Path) -> float:
        """The actor takes other weights (``JudgeActor.load``); the seconds it took."""
        where = str(Path(policy_dir).resolve())
        return await self._call(f"to load '{where}'", lambda actor: actor.load.remote(where))

    async def stats(self) -> dict[str, float]:
        """``JudgeActor.stats``."""
        return await self._call("to give its statistics", lambda actor: actor.stats.remote())

    async def _call(self, what: str, call: Callable[[Any], ray.ObjectRef[T]]) -> T:
        import ray

        actor = self._actor
        ref = call(actor)
        try:
            async with asyncio.timeout(self.timeout_s) as timer:
                return await ref
        except TimeoutError:
            if not timer.expired():
                raise
            ray.cancel(ref)  # the engine stops sampling it
            raise JudgeError(
                f"judge '{self.name}' took more than judge.client.timeout_s={self.timeout_s:g} {what}: "
                f"{await self._load_of(actor)}; raise it, or ask for shorter answers (judge.max_tokens)"
            ) from None
        except asyncio.CancelledError:
            ray.cancel(ref)
            raise
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, JudgeError):
                raise error.cause from None
            if isinstance(error.cause, EngineDied):
                raise JudgeError(
                    f"judge '{self.name}': {error.cause}; start the run again from its checkpoint"
                ) from error
            raise
        except ray.exceptions.RayActorError as error:
            self.__dict__.pop("_actor", None)
            raise JudgeError(
                f"judge '{self.name}' is gone ({type(error).__name__}): out of memory? Lower judge.kv_cache_gib or "
                "judge.max_concurrency, and start the run again from its checkpoint"
            ) from error

    @cached_property
    def _actor(self) -> Any:
        import ray

        if not ray.is_initialized():
            raise JudgeError(
                f"judge '{self.name}': this process is not part of a Ray cluster; a part that asks the run's own "
                "judge must not be isolated (isolate: false), and outside a run use judge=endpoint"
            )
        try:
            return ray.get_actor(self.name)
        except ValueError:
            raise JudgeError(
                f"no judge '{self.name}' runs in this Ray cluster: set judge=worker (and judge.name={self.name})"
            ) from None

    async def _load_of(self, actor: Any) -> str:
        try:
            async with asyncio.timeout(5.0):
                return f"{await actor.waiting.remote()} answers are waiting there"
        except Exception as error:  # dead, or its event loop is stuck: that is the answer
            return f"it does not say what it is doing ({type(error).__name__})"


@contextmanager
def running_judge(config: JudgeConfig, model_dir: str | Path, open_renderer: Callable[[], Any]) -> Iterator[Any]:
    """The judge's actor for the length of the block, its engine up. Ray must be initialised.

    Yields:
        the ``WorkerJudge`` that finds it.
    Raises:
        JudgeError: it did not start within ``config.start_s``, or could not; says why.
    """
    import ray

    directory = Path(model_dir).resolve()
    if not (directory / "config.json").is_file():
        raise JudgeError(
            f"judge.path={str(model_dir)!r}: no config.json there; give a directory in Hugging Face format"
        )
    path = [str(Path(entry or ".").resolve()) for entry in sys.path]
    actor_class: Any = ray.remote(JudgeActor)
    options = actor_class.options(
        name=config.name, num_cpus=1.0, num_gpus=config.num_gpus, max_restarts=0, max_concurrency=10_000
    )
    try:
        actor = options.remote(config, str(directory), open_renderer, path)
    except ValueError as error:
        raise JudgeError(f"judge.name={config.name!r} is taken in this Ray cluster: choose another") from error
    try:
        try:
            ray.get(actor.ready.remote(), timeout=config.start_s)
        except ray.exceptions.GetTimeoutError:
            raise JudgeError(
                f"the judge's engine ({directory}) was not up within judge.start_s={config.start_s:g}: a free CPU "
                "in Ray (ray.num_cpus)? a model too large for this machine?"
            ) from None
        except ray.exceptions.RayError as error:
            raise JudgeError(
                f"the judge's engine ({directory}) did not start: {getattr(error, 'cause', None) or error}"
            ) from error
        timeout_s = float((config.client or {}).get("timeout_s", WorkerJudge.timeout_s))
        yield WorkerJudge(config.name, timeout_s)
    finally:
        closing = actor.close.remote()
        ray.wait([closing], timeout=15.0)
        ray.kill(actor, no_restart=True)


def _weights_of(policy_dir: str) -> Mapping[str, Any]:
    from rl.policy.loading import load_policy

    return load_policy(policy_dir).weights()


def _special_tokens(model_dir: str) -> tuple[str, ...]:
    """The control tokens of the judge's tokenizer; empty: those of common chat templates are taken."""
    file = Path(model_dir) / "tokenizer.json"
    added = json.loads(file.read_text()).get("added_tokens", []) if file.is_file() else []
    return tuple(token["content"] for token in added if token.get("special") and token["content"])


def _same_tokenizer(model_dir: str, policy_dir: str) -> None:
    """Raises ValueError: the prompts are rendered with the tokenizer that the judge started with."""
    ours, theirs = (Path(directory) / "tokenizer.json" for directory in (model_dir, policy_dir))
    if theirs.is_file() and ours.is_file() and theirs.read_bytes() != ours.read_bytes():
        raise ValueError(f"its tokenizer.json is not that of '{model_dir}', with which the judge started")
