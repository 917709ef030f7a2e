"""Prices and money against numbers worked out by hand."""

from __future__ import annotations

import pytest

from rl.tracking.cost import CostConfig, PriceConfig, money, per_solved, price_of
from rl.types import Usage

API = PriceConfig(input=2.0, cached_input=0.5, output=10.0)


def test_cost_by_hand() -> None:
    price = price_of(CostConfig(prices={"m": API}), "m")
    # 600 computed · 2 + 400 cached · 0.5 + (30 + 20 + 50) · 10 = 1200 + 200 + 1000, per million
    usage = Usage(requests=3, prompt=1000, cached=400, thinking=30, tool=20, answer=50)
    assert price.cost(usage) == pytest.approx(0.0024)
    assert price.cost(Usage()) == 0.0
    # without a price of their own, cached tokens cost what the others do: 1000 · 2 + 100 · 10
    full = price_of(CostConfig(prices={"m": PriceConfig(input=2.0, output=10.0)}), "m")
    assert full.cost(usage) == pytest.approx(0.003)


def test_self_hosted_by_hand() -> None:
    hosted = PriceConfig(gpu_hour=3.6, input_tokens_per_s=10_000, output_tokens_per_s=500)
    price = price_of(CostConfig(currency="EUR", prices={"own": hosted}), "own")
    # 3.6 an hour is 0.001 a second: a million tokens take 100 s of prefill, 2,000 s of decoding; hits are free
    assert (price.input, price.cached_input, price.output) == (pytest.approx(0.1), 0.0, pytest.approx(2.0))
    assert price.currency == "EUR"


def test_an_unknown_model_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"cost\.model='gpt': no price of that name \(known: a, b\)"):
        CostConfig(model="gpt", prices={"b": API, "a": API})
    with pytest.raises(ValueError, match=r"known: none"):
        price_of(CostConfig(), "gpt")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (PriceConfig(input=1.0), r"cost\.prices\.m\.output is missing"),
        (PriceConfig(gpu_hour=2.0, input_tokens_per_s=1.0), r"m\.output_tokens_per_s is missing"),
        (PriceConfig(gpu_hour=2.0, input_tokens_per_s=0.0, output_tokens_per_s=1.0), r"_s=0\.0: must be above 0"),
        (PriceConfig(1.0, None, 1.0, 2.0, 1.0, 1.0), r"m\.input=1\.0: leave it out beside gpu_hour"),
        (PriceConfig(1.0, None, 1.0, output_tokens_per_s=5.0), r"_s=5\.0: leave it out without gpu_hour"),
    ],
)
def test_wrong_prices(entry: PriceConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CostConfig(prices={"m": entry})


def test_a_negative_price() -> None:
    with pytest.raises(ValueError, match=r"^cost\.prices\.input=-1\.0: must be 0 or more, or null"):
        PriceConfig(input=-1.0, output=1.0)


def test_per_solved_and_money() -> None:
    assert per_solved(6.0, 4) == 1.5
    assert per_solved(6.0, 0) is None
    shown = [money(x) for x in (None, 0.0, 0.0032308, 0.059664, 0.000012345, 0.3, 1234.5)]
    assert shown == ["–", "$0", "$0.0032", "$0.06", "$0.000012", "$0.30", "$1,234.50"]
    assert money(0.5, "EUR") == "0.50 EUR"
