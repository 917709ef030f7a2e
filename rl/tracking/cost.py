"""What tokens cost.

    cost = ((prompt − cached) · input + cached · cached_input + output · output_price) / 10⁶

with prices per million tokens. A model that is served on one's own GPUs has, per million tokens,

    price = gpu_hour / 3600 · 10⁶ / (tokens per second of one GPU)

with the speed of prefill for its input (tokens that are computed, not those found in the cache) and that of decoding
for its output. A solved task is paid for with all that was spent: cost per solved task = total cost / number solved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rl.bounds import Bounded, NonNegativeFloat

if TYPE_CHECKING:
    from rl.types import Usage

MILLION = 1e6


@dataclass
class PriceConfig(Bounded):
    """One entry of `cost.prices`: either the prices of an API, or a GPU's price and its speed (self-hosted)."""

    section: ClassVar[str] = "cost.prices"

    input: NonNegativeFloat | None = None  # per million prompt tokens that are not found in the prefix cache
    cached_input: NonNegativeFloat | None = (
        None  # per million prompt tokens found there; null: as input, self-hosted: 0
    )
    output: NonNegativeFloat | None = None  # per million sampled tokens, thinking included
    gpu_hour: NonNegativeFloat | None = None  # self-hosted: price of one GPU for one hour; replaces input and output
    input_tokens_per_s: NonNegativeFloat | None = None  # self-hosted: prompt tokens that one GPU computes in a second
    output_tokens_per_s: NonNegativeFloat | None = None  # self-hosted: tokens that one GPU samples in a second
    source: str = ""  # where the numbers are from
    date: str = ""  # the day on which they were true


@dataclass
class CostConfig(Bounded):
    """The `cost` config group: prices of models by name, and which of them the tokens of this run count at."""

    section: ClassVar[str] = "cost"

    currency: str = "USD"  # of all prices
    model: str | None = None  # the price of the run's own tokens, a name in `prices`; null: tokens without money
    prices: dict[str, PriceConfig] = field(default_factory=dict)  # per million tokens, by model

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, entry in self.prices.items():
            _check(name, entry)
        if self.model is not None:
            price_of(self, self.model)


@dataclass(frozen=True)
class Price:
    """Prices per million tokens of one model, self-hosted ones worked out."""

    name: str
    input: float
    cached_input: float
    output: float
    currency: str = "USD"

    def cost(self, usage: Usage) -> float:
        """What the tokens of ``usage`` cost."""
        computed = usage.prompt - usage.cached
        return (computed * self.input + usage.cached * self.cached_input + usage.output * self.output) / MILLION


def price_of(config: CostConfig, model: str, field_name: str = "cost.model") -> Price:
    """The price of ``model``. Raises ValueError that names the known models when it has none."""
    entry = config.prices.get(model)
    if entry is None:
        known = ", ".join(sorted(config.prices)) or "none"
        raise ValueError(
            f"{field_name}={model!r}: no price of that name (known: {known}); give one: "
            f"'cost.prices={{{model}: {{input: …, cached_input: …, output: …}}}}'"
        )
    if entry.gpu_hour is not None:
        assert entry.input_tokens_per_s is not None  # _check
        assert entry.output_tokens_per_s is not None
        return Price(
            model,
            input=_hosted(entry.gpu_hour, entry.input_tokens_per_s),
            cached_input=entry.cached_input or 0.0,
            output=_hosted(entry.gpu_hour, entry.output_tokens_per_s),
            currency=config.currency,
        )
    assert entry.input is not None  # _check
    assert entry.output is not None
    cached = entry.input if entry.cached_input is None else entry.cached_input
    return Price(model, entry.input, cached, entry.output, config.currency)


def per_solved(amount: float, solved: int) -> float | None:
    """``amount`` (money or tokens, spent on all attempts) for each solved one; None when none was."""
    return amount / solved if solved else None


def money(amount: float | None, currency: str = "USD") -> str:
    """``0.00323`` → ``$0.0032``: two digits that count below 0.1, two decimals above; a dash for None."""
    if amount is None:
        return "–"
    import numpy as np

    text = f"{amount:,.2f}" if amount >= 0.1 else np.format_float_positional(amount, 2, fractional=False, trim="-")
    return f"${text}" if currency == "USD" else f"{text} {currency}"


def _hosted(gpu_hour: float, tokens_per_s: float) -> float:
    return gpu_hour / 3600 * MILLION / tokens_per_s


def _check(name: str, entry: PriceConfig) -> None:
    where = f"cost.prices.{name}"
    hosted = entry.gpu_hour is not None
    needed = ("input_tokens_per_s", "output_tokens_per_s") if hosted else ("input", "output")
    other = ("input", "output") if hosted else ("input_tokens_per_s", "output_tokens_per_s")
    for number in needed:
        if getattr(entry, number) is None:
            raise ValueError(f"{where}.{number} is missing: give input and output, or gpu_hour with both speeds")
        if hosted and not getattr(entry, number) > 0:
            raise ValueError(f"{where}.{number}={getattr(entry, number)}: must be above 0")
    for number in other:
        if getattr(entry, number) is not None:
            raise ValueError(
                f"{where}.{number}={getattr(entry, number)}: leave it out "
                f"{'beside' if hosted else 'without'} gpu_hour; a price is either an API's or a GPU's"
            )
