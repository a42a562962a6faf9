"""The report in a real browser: everything is drawn, nothing is fetched, the console stays silent."""

import itertools
import json
import os
import select
import shutil
import subprocess
import time

import pytest
from finished_system import build_system

from sedflow.compare_files import Clips, compare_files

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--remote-debugging-pipe")
PATIENCE_SECONDS = 120


class Browser:
    """Headless chromium with one page, spoken to over a pipe in the DevTools protocol: JSON, ended by a zero byte."""

    def __init__(self, profile):
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None:
            pytest.fail("no chromium found; install it with `apt-get install chromium`")
        (read_here, write_there), (read_there, write_here) = os.pipe(), os.pipe()
        # the protocol wants descriptors 3 and 4; the shell puts them there
        command = f'exec "$0" "$@" 3<&{read_there} 4>&{write_there}'
        arguments = ["bash", "-c", command, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.program = subprocess.Popen(arguments, pass_fds=(read_there, write_there), stderr=subprocess.DEVNULL)
        os.close(read_there)
        os.close(write_there)
        self.inbox, self.outbox = read_here, write_here
        self.events, self.buffer, self.numbers = [], b"", itertools.count(1)
        target = self.call("Target.createTarget", session=None, url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", session=None, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, session="", **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = self.session
        os.write(self.outbox, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda received: received.get("id") == number, method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, address):
        self.events.clear()
        self.call("Page.navigate", url=address)
        self._until(lambda received: received.get("method") == "Page.loadEventFired", f"loading {address}")

    def run(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self):
        os.write(self.outbox, b'{"id": 0, "method": "Browser.close"}\0')
        try:
            self.program.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.program.kill()
        os.close(self.inbox)
        os.close(self.outbox)

    def _until(self, wanted, what):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            while b"\0" in self.buffer:
                line, self.buffer = self.buffer.split(b"\0", 1)
                received = json.loads(line)
                self.events.append(received)
                if wanted(received):
                    return received
            ready, _, _ = select.select([self.inbox], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.inbox, 1 << 20) if ready else b""
            assert chunk, f"chromium gave no answer to {what} within {PATIENCE_SECONDS} s"
            self.buffer += chunk


@pytest.fixture(scope="module")
def page_path(eval_reference_dir, tmp_path_factory):
    return build_system(eval_reference_dir, tmp_path_factory.mktemp("system")).write() / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


DRAWN = """
[...document.querySelectorAll("figure")].map(figure => {
  const boxes = selector => [...figure.querySelectorAll(selector)].map(shape => shape.getBoundingClientRect());
  const visible = figure.getBoundingClientRect().width > 0;
  const shapes = [...boxes("svg path.line, svg path.score"), ...boxes(".bar"), ...boxes("td")];
  return {
    title: figure.querySelector("figcaption").innerText,
    drawn: visible && shapes.some(box => box.width > 0 || box.height > 0),
    pictures: [...figure.querySelectorAll("img")].every(image => image.complete && image.naturalWidth > 100),
  };
})
"""
SECONDS_OF = """
sounds => Promise.all(sounds.map(async sound => {
  const bytes = await (await fetch(sound)).arrayBuffer();
  return (await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes)).duration;
}))
"""


def troubles(events):
    """Console messages, exceptions and requests that are neither the page itself nor data inside it."""
    found = []
    for event in events:
        parameters = event.get("params", {})
        if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            found.append(parameters)
        if event.get("method") == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            if not address.startswith(("data:", "file:")):
                found.append(address)
    return found


@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_is_drawn_and_nothing_is_fetched(browser, page_path, width):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.open(page_path.as_uri())
    figures = browser.run(DRAWN)
    assert len(figures) > 40
    assert [figure["title"] for figure in figures if not figure["drawn"]] == []
    assert all(figure["pictures"] for figure in figures)
    assert browser.run("document.querySelectorAll('img').length") == 19
    assert not troubles(browser.events)
    files = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [address for address in files if address.startswith("file:")] == [page_path.as_uri()]
    overhang = browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overhang <= 0, "the page scrolls sideways"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_comparison_is_drawn_and_fetches_nothing(browser, page_path, width):
    stages, out = page_path.parents[1] / "default", page_path.parent / "comparison.html"
    if not out.exists():
        compare_files([stages / "frozen", stages / "finetune"], Clips(), draws=40, out=out)
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.open(out.as_uri())
    figures = browser.run(DRAWN)
    assert len(figures) > 20
    assert [figure["title"] for figure in figures if not figure["drawn"]] == []
    assert browser.run("document.querySelectorAll('#numbers tbody tr').length") == 15
    assert not troubles(browser.events)
    overhang = browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overhang <= 0, "the page scrolls sideways"


def test_a_page_with_a_foreign_picture_is_caught(browser, page_path, tmp_path):
    spoiled = tmp_path / "index.html"
    spoiled.write_text(page_path.read_text().replace("<main>", "<main><img src='http://192.0.2.1/a.png'>"))
    browser.open(spoiled.as_uri())
    assert troubles(browser.events)


def test_every_player_holds_ten_seconds_of_sound(browser, page_path):
    # the page forbids itself to fetch even its own data, so its sounds are decoded on an empty page
    browser.open(page_path.as_uri())
    sounds = browser.run("[...document.querySelectorAll('audio')].map(audio => audio.src)")
    browser.open("about:blank")
    seconds = browser.run(f"({SECONDS_OF.strip()})({json.dumps(sounds)})")
    assert len(seconds) == 19
    assert all(9.9 < length < 10.1 for length in seconds)


def test_slider_redraws_detections_and_reset_brings_them_back(browser, page_path):
    browser.open(page_path.as_uri())
    browser.run(
        "range = document.querySelector('#threshold'); range.value = 4; range.dispatchEvent(new Event('input'))"
    )
    assert browser.run("document.querySelectorAll('.explored').length") > 50
    assert browser.run("document.querySelector('#threshold-value').textContent") == "0.10"
    shown = browser.run("[...document.querySelectorAll('#operating-table td')].map(cell => cell.textContent)")
    browser.run("document.querySelector('#as-tuned').click()")
    assert browser.run("document.querySelectorAll('.explored').length") == 0
    assert browser.run("[...document.querySelectorAll('#operating-table td')].map(cell => cell.textContent)") != shown
    assert not troubles(browser.events)


def test_a_click_on_a_lane_moves_the_player(browser, page_path):
    browser.open(page_path.as_uri())
    browser.run("""
        clip = [...document.querySelectorAll(".clip")].find(clip => clip.querySelector("audio"));
        plot = clip.querySelector(".lane-plot");
        box = plot.getBoundingClientRect();
        plot.dispatchEvent(new MouseEvent("click", {clientX: box.left + box.width / 2, bubbles: true}))""")
    assert browser.run("clip.querySelector('audio').currentTime") == pytest.approx(5, abs=0.2)


def test_dark_and_print_have_their_own_colours(browser, page_path):
    colours = {}
    for media, scheme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", media=media, features=features)
        browser.open(page_path.as_uri())
        colours[media, scheme] = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    assert colours["print", "dark"] == "rgb(255, 255, 255)"
    assert len(set(colours.values())) == 3
