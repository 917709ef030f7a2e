"""Weights that come in a stream (``rl.policy.weight_stream``), into the live parameters of an engine's model.

What comes from the learner has the names of a checkpoint; what comes from another engine of the same kind those of the
model itself. Either is looked at before the first byte is taken: what does not fit changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from rl.policy.rendezvous import Receipt, Rendezvous, StreamBroken, StreamWrong
from rl.policy.weight_plan import Entry, Plan
from rl.policy.weight_source import WeightSource
from rl.policy.weight_stream import Links, Taker

PEER = "peer"  # ``Rendezvous.source`` of an engine's own weights
HEAD = "lm_head.weight"


class ModelTaker:
    """Into an engine's model: ours tensor by tensor in place, vLLM's own by their ``load_weights``.

    ``expected``: names that a full update has to bring (``rl.rollout.vllm_weights.checkpoint_names``).
    """

    def __init__(self, model: Any, expected: set[str]) -> None:
        self.model, self._expected = model, expected
        self.begun = False  # once true, and until all has come, the weights are neither the old nor the new ones
        self._ours = hasattr(model, "check_weights")
        self._own: dict[str, Tensor] = model.dsa.state_dict() if self._ours else {}
        self._places = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
        self._loaded: set[str] = set()
        # vLLM leaves a tied head out, and wants the embedding in the same call then.
        self._tied = {HEAD} if getattr(getattr(model, "config", None), "tie_word_embeddings", False) else set()
        self._twice: list[Entry] = []

    def begin(self, plan: Plan) -> None:
        if self._ours:
            self.model.check_weights(plan.shapes)
        else:
            from rl.policy.io import unstack_experts

            given = {name: entry.empty() for entry in plan.entries for name in entry.names}
            if missing := sorted(self._expected - unstack_experts(given).keys()):
                raise ValueError(
                    f"weight update: missing {missing[:5]} ({len(missing)}); publish every tensor of the checkpoint"
                )
        self._twice = [entry for entry in plan.entries if len(entry.names) > 1]

    def target(self, entry: Entry) -> Tensor | None:
        self.begun = True
        return _same_kind(self._own.get(entry.name), entry)

    @torch.no_grad()
    def take(self, tensors: list[tuple[Entry, Tensor]]) -> None:
        named = {name: tensor for entry, tensor in tensors for name in entry.names}
        if self._ours:
            for name, tensor in named.items():
                if name in self._own:  # else the second name of a tied head
                    self._own[name].copy_(tensor)
            return
        from rl.policy.io import unstack_experts

        for name in self._tied & named.keys():
            del named[name]
        self._loaded |= self.model.load_weights(iter(unstack_experts(named).items()))

    @torch.no_grad()
    def finish(self) -> None:
        """When all has come. Raises RuntimeError where a parameter has been left out, or is another tensor now."""
        for entry in self._twice:
            for name in entry.names[1:]:
                if self._ours and name in self._own and entry.name in self._own:
                    self._own[name].copy_(self._own[entry.name])
        moved = sorted(n for n, p in self.model.named_parameters() if p.data_ptr() != self._places[n])
        untouched = [] if self._ours else sorted(self._places.keys() - self._loaded)
        if untouched or moved:
            raise RuntimeError(
                f"weight update did not fill the engine's parameters: untouched {untouched[:5]}, replaced {moved[:5]}"
            )


class PeerTaker:
    """Into an engine's model, from another engine's of the same kind and rank: by the model's own names."""

    def __init__(self, model: Any) -> None:
        self.begun = False
        self._own = own_tensors(model)

    def begin(self, plan: Plan) -> None:
        given = {name: tuple(shape) for name, shape in plan.shapes.items()}
        own = {name: tuple(value.shape) for name, value in self._own.items()}
        if wrong := sorted(name for name in given.keys() | own.keys() if given.get(name) != own.get(name)):
            raise ValueError(f"the other engine's model is not like this one's: {wrong[:5]} ({len(wrong)})")

    def target(self, entry: Entry) -> Tensor | None:
        self.begun = True
        return _same_kind(self._own[entry.name], entry)

    @torch.no_grad()
    def take(self, tensors: list[tuple[Entry, Tensor]]) -> None:
        for entry, tensor in tensors:
            self._own[entry.name].copy_(tensor)

    def finish(self) -> None:
        """Names share memory here as they do there."""


class AdapterTaker:
    """An adapter, in this process's memory: ``named`` when all has come."""

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}

    def begin(self, plan: Plan) -> None:
        from rl.policy.lora import holds_adapter

        if not holds_adapter(plan.shapes):
            raise ValueError("weights came where an adapter was awaited")

    def target(self, entry: Entry) -> Tensor | None:
        return None

    def take(self, tensors: list[tuple[Entry, Tensor]]) -> None:
        self.named |= {name: tensor.clone() for entry, tensor in tensors for name in entry.names}


@dataclass(frozen=True)
class Answer:
    """What one rank of a served engine says of a stream: its receipt, or what went wrong (``kind``: the error's class)
    and whether its weights are torn then."""

    receipt: Receipt | None
    kind: str = ""
    error: str = ""
    torn: bool = False

    @property
    def plain(self) -> list[Any]:
        """For vLLM's messages."""
        return [None if self.receipt is None else astuple(self.receipt), self.kind, self.error, self.torn]

    @classmethod
    def of(cls, plain: list[Any]) -> Answer:
        receipt, *rest = plain
        return cls(None if receipt is None else Receipt(*receipt), *rest)

    @classmethod
    def to(cls, action: Callable[[], Receipt], torn: Callable[[], bool] = lambda: False) -> Answer:
        """What ``action`` gives or raises."""
        try:
            return cls(action())
        except Exception as error:
            return cls(None, type(error).__name__, str(error), torn())


def receipts(answers: Sequence[Answer]) -> list[Receipt]:
    """Of all ranks. Raises the error that tells most: what one rank found wrong rather than that others stopped."""
    kinds = {"ValueError": ValueError, "StreamWrong": StreamWrong, "StreamBroken": StreamBroken}
    failed = [(rank, answer) for rank, answer in enumerate(answers) if answer.receipt is None]
    for rank, answer in sorted(failed, key=lambda one: one[1].kind == "StreamBroken"):
        where = f"rank {rank}: " if len(answers) > 1 else ""
        raise kinds.get(answer.kind, RuntimeError)(where + answer.error)
    return [answer.receipt for answer in answers if answer.receipt is not None]


def take_stream(
    links: Links, taker: ModelTaker | PeerTaker, meeting: Rendezvous, rank: int, host: str, device: torch.device
) -> Receipt:
    """As rank ``rank`` of ``meeting``. Raises as ``Link.receive``; ``taker.begun`` says whether the model is as it was
    then."""
    receipt = receive(links, taker, meeting, rank, host, device)
    taker.finish()
    return receipt


def receive(
    links: Links, taker: Taker, meeting: Rendezvous, rank: int, host: str, device: torch.device | None = None
) -> Receipt:
    """The next stream of ``meeting``, into ``taker``. Raises as ``Link.receive``."""
    with links.to(meeting, rank, host, device) as link:
        return link.receive(taker, meeting.version)


def send_own(links: Links, model: Any, meeting: Rendezvous, host: str, device: torch.device) -> Receipt:
    """An engine's weights, by its model's own names, to the others of ``meeting``. Raises as ``Link.send``."""
    source = WeightSource(own_tensors(model))
    with links.to(meeting, 0, host, device) as link:
        return link.send(source.plan(meeting.version, meeting.bucket_bytes), iter(source))


def taker_of(model: Any, meeting: Rendezvous, expected: set[str]) -> ModelTaker | PeerTaker:
    """Who takes what ``meeting`` brings."""
    return PeerTaker(model) if meeting.source == PEER else ModelTaker(model, expected)


def own_tensors(model: Any) -> dict[str, Tensor]:
    """All that a model computes with: parameters and buffers that are stored, by its own names."""
    state: Mapping[str, Any] = model.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _same_kind(own: Tensor | None, entry: Entry) -> Tensor | None:
    """``own`` where the bytes of ``entry`` can be copied into it as they are."""
    if own is None or not own.is_contiguous() or own.shape != torch.Size(entry.shape):
        return None
    return own if str(own.dtype) == f"torch.{entry.dtype}" else None
