"""The web page: its files over HTTP, and calls from it in a Chromium whose microphone plays a recording."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import torch

from s2s.audio.io import write_wav
from s2s.audio.pcm import int16_to_float
from s2s.gateway.admission import Access
from s2s.gateway.server import ServerConfig
from s2s.models.scripted import Script, ScriptedStep
from s2s.text import ByteTokenizer
from tests.gateway.serving import RATE, Served, serving, silence, speech, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = Path(__file__).parents[2] / "s2s" / "gateway" / "page"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 30_000  # far more than anything takes on an idle machine

SAID = "Your refund is on its way. It reaches your account within three working days."
HEARD = "When do I get my money back?"
ANSWER_S = 4.0


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One line, an agent that answers at once, in words and with a speaking voice, and yields."""
    tokenizer, voice = ByteTokenizer(), int16_to_float(speech("opening_hours"))
    answer = np.resize(voice, round(ANSWER_S * RATE))
    text = {"agent_text": tokenizer.encode(SAID), "user_text": tokenizer.encode(HEARD)}
    step = ScriptedStep(Script(torch.from_numpy(answer), delay_s=0.24, yield_after_s=0.5, text=text))
    with serving(step, ServerConfig(model="scripted"), 1, tokenizer, live=True) as server:
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with serving(config=ServerConfig(model="echo", access=Access("s3cret")), live=True) as server:
        yield server


def get(served: Served, path: str) -> httpx.Response:
    return httpx.get(served.http + path)


def test_every_file_of_the_page_is_served(served: Served) -> None:
    page = get(served, "/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    names = {path.name for path in FOLDER.iterdir()}
    assert {"index.html", "style.css", "app.js", "worklet.js"} <= names
    for name in names:
        response = get(served, f"/{name}")
        assert response.status_code == 200 and response.text == (FOLDER / name).read_text(), name
        assert response.headers["x-content-type-options"] == "nosniff"
    assert get(served, "/page.json").json() == {"model": "scripted", "token": False}


@pytest.mark.parametrize("path", ["/missing.js", "/server.py", "/..%2Fserver.py", "/page/index.html"])
def test_nothing_else_is_served(served: Served, path: str) -> None:
    assert get(served, path).status_code == 404


def test_the_page_needs_nobody_else() -> None:
    for path in FOLDER.iterdir():
        found = set(re.findall(r"(?:https?|wss?):?//[\w.]+", path.read_text()))
        assert found <= {"http://www.w3.org"}, f"{path.name} names other machines: {found}"


def test_only_whether_there_is_a_token_is_told(guarded: Served) -> None:
    response = get(guarded, "/page.json")
    assert response.json() == {"model": "echo", "token": True}
    assert "s3cret" not in response.text


OpenBrowser = Callable[..., "Browser"]


@pytest.fixture(scope="module")
def open_browser() -> Iterator[OpenBrowser]:
    """A Chromium; with a microphone it plays a recording [N] once, from the moment the page opens it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (pip install playwright)")
    with api.sync_playwright() as playwright:

        def launch(*options: str) -> Browser:
            browser: Browser = playwright.chromium.launch(
                executable_path=CHROMIUM,
                args=["--no-sandbox", "--use-fake-ui-for-media-stream", *options],
            )
            return browser

        yield launch


OpenMicrophone = Callable[..., "Browser"]


@pytest.fixture(scope="module")
def with_microphone(open_browser: OpenBrowser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenMicrophone]:
    opened: list[Browser] = []

    def launch(*parts: np.ndarray) -> Browser:
        path = tmp_path_factory.mktemp("microphone") / "caller.wav"
        write_wav(path, int16_to_float(np.concatenate(parts)), RATE)
        fake = f"--use-file-for-fake-audio-capture={path}%noloop"
        opened.append(open_browser("--use-fake-device-for-media-stream", fake))
        return opened[-1]

    yield launch
    for browser in opened:
        browser.close()


@pytest.fixture(scope="module")
def caller(with_microphone: OpenMicrophone) -> Browser:
    """Whoever starts a call in it asks one question."""
    return with_microphone(silence(0.2), speech(), silence(30))


def visit(browser: Browser, served: Served, **options: Any) -> tuple[Page, list[str]]:
    """The page, and what goes wrong in it."""
    for context in browser.contexts:
        context.close()  # of the test before
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
    page.goto(served.http)
    page.wait_for_selector("#model:not(:empty)")
    return page, errors


def problem(page: Page) -> str:
    page.wait_for_selector("#problem:not([hidden])")
    return page.inner_text("#problem")


def level(page: Page, side: str, above: int) -> None:
    """Wait until a meter, which shows what is captured or played, is above this."""
    wait_for(lambda: int(page.get_attribute(f"#{side}-level", "aria-valuenow") or 0) > above, PATIENCE_MS / 1000)


def test_a_call(served: Served, with_microphone: OpenMicrophone, tmp_path: Path) -> None:
    """The caller asks, talks into the answer and is answered again."""
    browser = with_microphone(silence(0.3), speech(), silence(2.2), speech("opening_hours"), silence(30))
    page, errors = visit(browser, served, viewport={"width": 900, "height": 800})
    page.click("text=Start call")
    level(page, "you", 40)
    level(page, "agent", 40)
    page.wait_for_selector(f"#log .you:has-text('{HEARD}')")
    page.wait_for_selector("#answer:has-text(' ms')")
    page.wait_for_selector("#log .agent.cut:has-text('interrupted after')")
    page.wait_for_selector(f"#log .you + .agent:has-text('{SAID}')")
    level(page, "agent", 40)
    page.screenshot(path=tmp_path / "page.png")
    page.click("text=Hang up")
    page.wait_for_selector("#status:has-text('Ended after')")
    assert errors == []


def test_a_phone_shows_the_whole_page(served: Served, caller: Browser, tmp_path: Path) -> None:
    page, errors = visit(caller, served, viewport={"width": 360, "height": 740}, color_scheme="dark")
    page.click("text=Start call")
    page.wait_for_selector("#log .agent:not(.wordless)")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.is_visible("text=Hang up")
    page.click("text=Mute")
    assert page.get_attribute("#mute", "aria-pressed") == "true"
    page.screenshot(path=tmp_path / "phone.png")
    page.click("text=Hang up")
    assert errors == []


def test_a_full_server_says_so(served: Served, caller: Browser) -> None:
    session = served.engine.open()
    try:
        page, _ = visit(caller, served)
        page.click("text=Start call")
        assert problem(page) == "All lines are busy. Try again in a moment."
    finally:
        session.close()
    assert page.inner_text("#call") == "Start call"


def test_a_token(guarded: Served, caller: Browser) -> None:
    page, _ = visit(caller, guarded)
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("websocket", lambda socket: addresses.append(socket.url))
    page.click("text=Start call")
    assert problem(page) == "This server needs a token."
    assert page.evaluate("document.activeElement.id") == "token"
    page.fill("#token", "wrong")
    page.click("text=Start call")
    page.wait_for_selector("#problem:has-text('does not know this token')")
    page.fill("#token", "s3cret")
    page.click("text=Start call")
    page.wait_for_selector("#status[data-state=live]")
    level(page, "agent", 20)
    assert any(address.startswith("ws://") for address in addresses)
    assert not any("s3cret" in address for address in addresses)


def test_cancelling_closes_the_microphone_that_opens_late(served: Served, caller: Browser) -> None:
    page, errors = visit(caller, served)
    page.evaluate("""() => {
        const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        const allowed = new Promise((resolve) => { window.allow = resolve; });
        navigator.mediaDevices.getUserMedia = async (wanted) => {
            await allowed;
            return (window.stream = await open(wanted));
        };
    }""")
    page.click("text=Start call")
    page.click("text=Cancel")
    assert page.inner_text("#status") == "Ready"
    page.evaluate("window.allow()")
    wait_for(lambda: page.evaluate("window.stream?.getTracks()[0].readyState") == "ended", PATIENCE_MS / 1000)
    assert page.is_hidden("#problem") and errors == []
    assert served.engine.stats.sessions == 0


def test_no_microphone(served: Served, open_browser: OpenBrowser) -> None:
    browser = open_browser()
    try:
        page, _ = visit(browser, served)
        page.click("text=Start call")
        assert "microphone" in problem(page)
    finally:
        browser.close()


def test_a_server_that_is_gone(caller: Browser) -> None:
    with serving(config=ServerConfig(model="echo"), live=True) as server:
        page, _ = visit(caller, server)
        page.click("text=Start call")
        page.wait_for_selector("#status[data-state=live]")
    assert problem(page) in ("The connection was lost.", "The server has shut down.")
    page.click("text=Start call")
    page.wait_for_selector("#problem:has-text('The server cannot be reached.')")
