"""`rl-view` in a real browser: nothing overflows, no error, no request elsewhere; keys, filters, curves that grow."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import pytest
from made_runs import HOSTILE, make_run, metrics, rollout

from rl.tracking.rundir import RunDir
from rl.view.server import listen, make_server

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install -y chromium")
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip
WIDTHS, SCHEMES = (1400, 400), ("light", "dark")
T = TypeVar("T")


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("browser") / "runs"
    make_run(directory / "a-run-with-a-rather-long-name-as-experiments-have", steps=5)
    run = make_run(directory / "going-on", steps=3, finished=False)
    hostile = rollout("x-0-1", "x" * 150, answer=HOSTILE, thinking=HOSTILE, prompt=HOSTILE + "long" * 200)
    run.log_trajectories("step_000004", [*[rollout(f"x-0-{k}", f"x/{k}", reward=k / 9) for k in range(3)], hostile])
    return directory


@pytest.fixture(scope="module")
def address(runs_dir: Path) -> Iterator[str]:
    listening = listen(0)
    server = make_server(runs_dir)
    thread = Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


class Pages:
    """Pages of one browser. Playwright keeps an event loop in its thread, so it has a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._playwright, self._browser = self._thread.submit(self._start).result(60)

    def _start(self) -> tuple[Any, Any]:
        from playwright.sync_api import sync_playwright

        playwright = sync_playwright().start()
        return playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))

    def __call__(self, use: Callable[[Any], T], width: int = 1400, scheme: str = "light") -> T:
        """What ``use`` makes of a fresh page. Errors on the page, and requests to others, fail."""

        def inside() -> T:
            context = self._browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            page.set_default_timeout(15_000)
            wrong: list[str] = []
            page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on(
                "request",
                lambda r: wrong.append(r.url) if not r.url.startswith(("http://127.0.0.1:", "data:")) else None,
            )
            page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
            try:
                made = use(page)
                assert wrong == []
                return made
            finally:
                context.close()

        return self._thread.submit(inside).result(120)

    def close(self) -> None:
        self._thread.submit(lambda: (self._browser.close(), self._playwright.stop())).result(60)
        self._thread.shutdown()


@pytest.fixture(scope="module")
def on_page() -> Iterator[Pages]:
    pages = Pages()
    yield pages
    pages.close()


def settle(page: Any, url: str) -> None:
    page.goto(url)
    if "/rollout?" in url:
        page.wait_for_selector("#tokens .text span:not(.prompt)")
    elif "/run/" not in url:
        page.wait_for_selector("figure polyline")


def until(page: Any, expression: str, seconds: float = 20) -> None:
    """Waits for it from outside: in the page, playwright's own waiting needs eval, which the page's policy forbids."""
    ends = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < ends, f"never true: {expression}"
        page.wait_for_timeout(50)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows(address: str, on_page: Pages, width: int, scheme: str) -> None:
    urls = [
        "/", "/?run=going-on&run=a-run-with-a-rather-long-name-as-experiments-have&smooth=5", "/run/going-on",
        "/run/going-on?file=*&text=long", "/run/going-on/rollout?at=step_000004:3&color=advantage",
    ]  # fmt: skip

    def use(page: Any) -> None:
        for url in urls:
            settle(page, address + url)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{url} is {wide} wide"
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 30)"}[scheme]
        assert page.evaluate("window.stolen") is None
        if folder := os.environ.get("SPECIALE_SCREENSHOTS"):
            for number, url in enumerate(urls):
                settle(page, address + url)
                page.screenshot(path=f"{folder}/{number}-{width}-{scheme}.png", full_page=True)

    on_page(use, width, scheme)


def test_find_open_and_walk_with_keys(address: str, on_page: Pages) -> None:
    def use(page: Any) -> None:
        page.goto(f"{address}/run/going-on")
        page.select_option('[name="sort"]', "-reward")
        page.wait_for_url("**sort=-reward**")
        page.fill('[name="high"]', "0.5")
        page.press('[name="high"]', "Enter")
        page.wait_for_url("**high=0.5**")
        assert page.locator("tr[data-item]").count() == 3
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("k")
        assert page.evaluate("document.activeElement.textContent") == "x/2"
        page.keyboard.press("Enter")
        page.wait_for_url("**/rollout?at=step_000004%3A2**")
        page.keyboard.press("j")
        page.wait_for_url("**/rollout?at=step_000004%3A1**")
        page.keyboard.press("k")
        page.wait_for_url("**/rollout?at=step_000004%3A2**")
        page.keyboard.press("u")
        page.wait_for_url("**/run/going-on?**")
        assert page.input_value('[name="high"]') == "0.5"
        page.keyboard.press("/")
        page.keyboard.type("jkux")  # letters in a field are letters
        assert page.input_value("#text") == "jkux"

    on_page(use)


def test_tokens_are_coloured_and_told(address: str, on_page: Pages) -> None:
    def use(page: Any) -> None:
        settle(page, f"{address}/run/going-on/rollout?at=step_000003:3")
        spans = page.locator("#tokens .text span")
        assert "".join(spans.all_text_contents()) == "Where is the library?answer 3 of 3"
        assert "context" in spans.first.get_attribute("class")
        assert spans.last.get_attribute("class") == "h5"
        page.check('input[value="advantage"]')
        assert spans.last.get_attribute("class") == "up3"
        assert "reward 1.000 − group mean 0.500" in page.locator("#tokens .scale").text_content()
        spans.last.hover()
        told = page.locator("#tokens .readout").text_content()
        assert "version 3" in told
        assert "advantage +0.500" in told
        page.reload()
        page.wait_for_selector("#tokens .text span")
        assert page.is_checked('input[value="advantage"]')  # the address holds it
        settle(page, f"{address}/run/going-on/rollout?at=step_000004:3")  # a long prompt is folded
        assert not spans.first.is_visible()
        assert spans.last.is_visible()
        page.get_by_role("button", name="show the prompt").click()
        assert spans.first.is_visible()

    on_page(use)


def test_curves_grow_while_a_run_goes_on(address: str, on_page: Pages, runs_dir: Path) -> None:
    run = RunDir(runs_dir / "going-on")

    def use(page: Any) -> None:
        settle(page, f"{address}/?run=going-on")
        curve = 'figure[data-metric="reward/mean"] polyline'
        points = f"document.querySelector('{curve}').getAttribute('points').split(' ').length"
        before = page.evaluate(points)
        run.log_metrics("grpo", 4, metrics(4))
        until(page, f"{points} === {before + 1}")
        steps = 'tr[data-run="going-on"] [data-cell=steps]'
        until(page, f"document.querySelector('{steps}').textContent === '4 / 3'")

    on_page(use)


def test_several_runs_log_axis_values_and_the_address(address: str, on_page: Pages) -> None:
    def use(page: Any) -> None:
        settle(page, f"{address}/?run=going-on")
        page.locator("#runs input").first.check()
        page.locator("#runs input").last.check()
        page.wait_for_selector('figure[data-metric="reward/mean"] polyline.k1')
        assert page.url.count("run=") == 2
        reward = page.locator('figure[data-metric="reward/mean"]')
        page.wait_for_selector('figure[data-metric="outcome/family/code"]')
        linear = reward.locator("polyline").first.get_attribute("points")
        reward.get_by_role("button", name="log").click()
        assert reward.locator("polyline").first.get_attribute("points") != linear
        assert "flip=reward%2Fmean" in page.url
        area = reward.locator("svg").bounding_box()
        page.mouse.move(area["x"] + 52, area["y"] + 60)
        assert "step 1" in reward.locator(".legend").text_content()
        assert "0.3" in reward.locator(".legend em").first.text_content()
        page.select_option("#add", "failure/total")
        page.reload()
        page.wait_for_selector("figure polyline.k1")
        assert page.locator('figure[data-metric="reward/mean"] button[aria-pressed="true"]').count() == 1

    on_page(use)
