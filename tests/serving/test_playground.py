"""The page for people, in a real browser: what it shows, how it is worked, what it never does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from lorax_spec import Client
from lorax_spec.router.keys import Role, new_key
from tests.cli.processes import Server, eventually
from tests.serving.web import ask, web_router
from tests.worker.processes import fake_worker

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ADAPTER, HEADS = "demo/tests", "demo/tests-medusa"
PROMPT = "import unittest\n\n\nclass TestQueue(unittest.TestCase):\n    def test_put(self):\n"
SAME = re.compile("^Same text on both sides: all [0-9]+ tokens are equal. Seed 7")
#: WCAG's, for text of this size.
LEAST_CONTRAST = 4.5


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, address: str, complaints: tuple[str, ...] = (), **options: Any
) -> Iterator[Page]:
    """The page; fails where it asks anybody else, or complains of what is not in ``complaints``."""
    hosts, said = set(), []
    options = {"viewport": {"width": 1200, "height": 900}, **options}
    with browser.new_context(**options) as context:
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: hosts.add(urlsplit(request.url)[:2]))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://{address}/playground")
        yield page
        assert hosts <= {("http", address), ("data", "")}, hosts
        assert [text for text in said if not any(one in text for one in complaints)] == []


def fill(page: Page, tokens: int = 64, adapter: str = ADAPTER, heads: str = HEADS) -> None:
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    page.locator(f"input[value='{adapter}']").check()
    page.get_by_label("With the heads of").select_option(heads)
    page.get_by_label("Guesses a step").fill("8")  # else it is a matter of time
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Most tokens").fill(str(tokens))


def sides(page: Page) -> tuple[Locator, Locator]:
    panes = page.locator(".pane")
    return panes.nth(0), panes.nth(1)


def said(page: Page, words: str | re.Pattern[str]) -> None:
    """Wait until the page tells how the run ended."""
    from playwright.sync_api import expect

    expect(page.locator("#verdict")).to_have_text(words, timeout=30_000)


def shown(pane: Locator, figure: str) -> str:
    return pane.locator(f"[data-figure={figure}]").inner_text()


def colours(pane: Locator) -> list[list[str]]:
    """The classes of every token."""
    found: list[str] = pane.locator(".text > .t").evaluate_all("all => all.map(t => t.className)")
    return [name.split() for name in found]


#: The page counts by itself, since it may be looked at seldom: ``changes`` of what a pane holds.
_COUNT_CHANGES = """pane => {
    window.changes = 0;
    new MutationObserver(() => window.changes++).observe(pane, {childList: true, subtree: true});
}"""


def test_both_sides_in_colours(browser: Browser, server: Server, ours: Client) -> None:
    ours.unload_adapter(ADAPTER)
    answer = ours.generate(
        PROMPT,
        ADAPTER,
        max_new_tokens=64,
        temperature=0.5,
        do_sample=True,
        seed=7,
        speculation={"method": "none"},
    )
    ours.unload_adapter(ADAPTER)
    with opened(browser, server.http) as page:
        state = page.locator("label", has=page.locator(f"input[value='{ADAPTER}']")).locator(
            ".state"
        )
        eventually(lambda: state.inner_text() == "cold")
        fill(page)
        page.get_by_role("button", name="Run off and on").click()
        said(page, SAME)
        eventually(lambda: state.inner_text() == "hot")
        off, on = sides(page)
        texts = [pane.locator(".text").text_content() for pane in (off, on)]
        assert texts == [answer.generated_text] * 2
        assert {name for names in colours(off) for name in names} <= {"t", "newline"}
        guessed = [names for names in colours(on) if len({*names} - {"newline"}) > 1]
        assert {"medusa", "prompt_lookup"} <= {name for names in guessed for name in names}
        assert {"d1", "d2", "d3"} <= {name for names in guessed for name in names}
        depth = 0
        for names in colours(on):  # one further ahead with every guess in a row
            depth = depth + 1 if names in guessed else 0
            assert not depth or f"d{min(depth, 5)}" in names
        tokens, passes = int(shown(on, "tokens")), int(shown(on, "forwards"))
        assert (shown(off, "tokens"), shown(off, "forwards")) == (f"{tokens}", f"{tokens}")
        assert shown(off, "ratio") == "1.00"
        assert tokens == len(colours(on)) == answer.details.generated_tokens
        assert passes <= tokens - len(guessed) + 1, "only the last one may end on a guess"
        assert shown(on, "ratio") == page.locator("#ratio").inner_text() == f"{tokens / passes:.2f}"
        assert page.locator("#right").inner_text().startswith(f"{len(guessed)} of ")
        assert re.fullmatch(r"[0-9]+\.[0-9]{2} \S", page.locator("#speedup").inner_text())
        on.locator(".text > .medusa").first.hover()
        told = on.locator(".inspector").inner_text()
        assert "guessed by a Medusa head" in told
        found = re.search(r"gave (\d+) tokens?; of (\d+) guesses (\d+) right, (\d+) rejected", told)
        assert found, told
        got, made, right, wrong = map(int, found.groups())
        assert got == right + 1 and right + wrong == made
        assert len(re.findall(r"\([0-9]+ ahead, [a-z ]+\)", told)) == wrong > 0
        assert on.locator(".text > .step").count() == got
        page.mouse.move(0, 0)
        assert on.locator(".text > .step").count() == 0


def test_by_keyboard_alone(browser: Browser, server: Server) -> None:
    """Tab goes through everything in its order; Ctrl+Enter runs, Escape stops a stream."""
    with opened(browser, server.http) as page:
        page.locator(f"input[value='{ADAPTER}']").wait_for()
        assert page.locator(":focus").get_attribute("id") == "prompt"
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("x = 1\n" * 4)
        order = []
        for _ in range(20):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            order.append(focused.get_attribute("name") or focused.get_attribute("id") or "text")
            if order[-1] == "adapter":
                page.keyboard.press("ArrowDown")
                chosen = page.locator("input[name=adapter]:checked").get_attribute("value")
                assert chosen and chosen.startswith("demo/")
            if order[-1] == "seed":
                page.keyboard.type("7")
            if order[-1] == "max_new_tokens":
                page.keyboard.press("ControlOrMeta+a")
                page.keyboard.type("400")
            if order[-1] == "text":
                break
        options = ["method", "heads", "num_tokens", "temperature", "seed", "max_new_tokens"]
        wanted = ["chat", "adapter", "other", *options, "run", "in_turn", "text"]
        assert [name for name in order if name != "adapters"] == wanted  # the list may scroll
        off, on = sides(page)
        off.evaluate(_COUNT_CHANGES)
        page.keyboard.press("Control+Enter")
        while len(colours(off)) < 100:  # one at a time; the other side may be far ahead
            assert page.get_by_role("button", name="Stop").is_enabled(), "it ended before"
        page.keyboard.press("Escape")
        said(page, "Stopped.")
        assert page.evaluate("changes") > 3, "a few at a time"
        assert len(colours(off)) < 400
        assert page.get_by_role("button", name="Stop").is_disabled()
        page.get_by_label("Most tokens").fill("24")
        page.keyboard.press("Control+Enter")
        said(page, SAME)
        on.locator(".text").focus()
        assert "Forward 1 " in on.locator(".inspector").inner_text()
        page.keyboard.press("End")
        assert on.locator(".current").get_attribute("data-index") == "23"
        page.keyboard.press("ArrowLeft")
        assert on.locator(".current").get_attribute("data-index") == "22"


def test_a_difference_is_told(browser: Browser, server: Server) -> None:
    """Should the sides ever differ: here one answer is tampered with on its way."""

    def tamper(route: Route) -> None:
        response = route.fetch()
        text = response.text()
        if json.loads(route.request.post_data or "")["parameters"]["speculation"]["method"] != (
            "none"
        ):
            text = re.sub(r'("index":5,"token":\{"id":)\d+', r"\g<1>1", text)
        route.fulfill(response=response, body=text)

    with opened(browser, server.http) as page:
        page.route("**/generate_stream", tamper)
        page.locator(f"input[value='{ADAPTER}']").wait_for()
        fill(page, 16)
        page.get_by_label("One after the other").check()
        page.get_by_role("button", name="Run off and on").click()
        said(page, re.compile("^The texts differ from token 5 on"))


def test_errors_are_the_servers_own(browser: Browser, server: Server) -> None:
    with opened(browser, server.http, ("404",)) as page:
        page.get_by_label("Id of another adapter").fill("demo/nobody")
        page.get_by_label("Who guesses").select_option("none")
        page.get_by_role("button", name="Run", exact=True).click()
        said(page, "There is no whole answer to compare.")
        off, on = sides(page)
        assert "demo/nobody" in off.get_by_role("alert").inner_text()
        assert not on.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_small_phone(browser: Browser, server: Server, scheme: str) -> None:
    """320 pixels wide: nothing to scroll sideways; readable; still where motion is unwanted."""
    small = {"viewport": {"width": 320, "height": 640}, "has_touch": True}
    how: dict[str, Any] = {**small, "color_scheme": scheme, "reduced_motion": "reduce"}
    with opened(browser, server.http, **how) as page:
        page.locator(f"input[value='{ADAPTER}']").wait_for()
        fill(page)
        page.get_by_role("button", name="Run off and on").tap()
        said(page, SAME)
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        assert page.evaluate("document.getAnimations().length") == 0
        _, on = sides(page)
        on.locator(".text > .medusa").first.tap()
        assert "guesses" in on.locator(".inspector").inner_text()
        samples = page.locator(".t, .state, dt, .hint, #server, button:enabled, #verdict, legend")
        pairs: list[tuple[str, str]] = samples.evaluate_all(
            """all => all.filter(one => one.offsetParent).map(one => {
                const paint = document.createElement("canvas").getContext(
                    "2d", { willReadFrequently: true });
                const parents = [];
                for (let at = one; at; at = at.parentElement) parents.unshift(at);
                for (const at of parents) {
                    paint.fillStyle = getComputedStyle(at).backgroundColor;
                    paint.fillRect(0, 0, 1, 1);
                }
                const under = [...paint.getImageData(0, 0, 1, 1).data];
                paint.fillStyle = getComputedStyle(one).color;
                paint.fillRect(0, 0, 1, 1);
                return [under, [...paint.getImageData(0, 0, 1, 1).data]];
            })"""
        )
        contrasts = [contrast(under, over) for under, over in pairs]
        assert len(contrasts) > 60 and min(contrasts) >= LEAST_CONTRAST


def contrast(*colours: Any) -> float:
    """WCAG 2's ratio of two colours' luminances."""

    def luminance(colour: list[int]) -> float:
        parts = [value / 255 for value in colour[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_it_asks_for_a_key_where_the_server_does(browser: Browser, tmp_path: Path) -> None:
    secret, line = new_key(Role.USER, "bob")
    keys = tmp_path / "keys"
    keys.write_text(f"{line.line}\n")
    with fake_worker() as (_, worker), web_router(worker, api_key_file=str(keys)) as address:
        with opened(browser, address, ("401",)) as page:
            dialog = page.get_by_role("dialog")
            for key, why in (("wrong", "asks for one"), (secret, "does not know")):
                page.get_by_text(why).wait_for()
                dialog.get_by_label("Key").fill(key)
                page.keyboard.press("Enter")
            dialog.wait_for(state="hidden")
            page.get_by_text("version").wait_for()
            page.reload()  # the tab keeps it
            page.get_by_text("version").wait_for()
            assert not dialog.is_visible()
        with opened(browser, address, ("401",)) as other:
            other.get_by_role("dialog").wait_for()
        assert ask(address, "/playground/secret.js").status == 401


def test_the_page_may_use_nothing_from_elsewhere(server: Server) -> None:
    page = ask(server.http, "/playground")
    parts = re.findall(r'(?:src|href)="(playground/[^"]+)"', page.content.decode())
    assert len(parts) == 2
    for answer in (page, *(ask(server.http, f"/{part}") for part in parts)):
        assert answer.status == 200
        policy = answer.headers["content-security-policy"].split("; ")
        assert "default-src 'none'" in policy
        assert not re.search("unsafe|https?:|\\*", " ".join(policy))
        assert answer.headers["x-content-type-options"] == "nosniff"
