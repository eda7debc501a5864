"""The explorer's page in a real browser: every view is opened and used, and nothing leaves the machine."""

import base64
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from flowvae.batch import DataSpec
from flowvae.explorer.page import STATIC
from flowvae.models.registry import build_model, preset
from flowvae.runs import create, write_json, write_weights

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What a person waits for at most, on a machine that does other things too.
PATIENCE = 120_000
SHOTS = os.environ.get("FLOWVAE_SCREENSHOTS")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or not all(map(importlib.util.find_spec, ("gradio", "playwright"))),
        reason="needs gradio and playwright (pip install 'flowvae[explore]' playwright) and chromium",
    ),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two autoencoders and, between them, a PixelCNN, of MNIST's size. What they have learnt is nothing."""
    folder = tmp_path_factory.mktemp("runs")
    made = []
    torch.manual_seed(0)
    spec = DataSpec((1, 28, 28), levels=2)
    for name in ("vae", "pixelcnn", "realnvp-2"):
        config, run = preset(name).revised(steps=1), folder / name
        assert config.model is not None
        create(run, config, spec, config.model.name)
        model = build_model(config.model, spec)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.03 * torch.randn_like(parameter)
        write_weights(run, model)
        made.append(run)
    with (made[0] / "metrics.jsonl").open("w") as metrics:
        for second in range(0, 300, 60):
            for split in ("train", "valid"):
                step = {"split": split, "step": second, "epoch": 0.1, "seconds": second}
                record = {**step, "negative_elbo": 200 - second / 3}
                metrics.write(json.dumps(record) + "\n")
    write_json(made[0] / "evaluation.json", {"kl": 25.125, "nll": 90.5, "samples": 500, "images": 1000})
    write_json(made[1] / "evaluation.json", {"nll": 89.75, "images": 1000})
    write_json(made[2] / "evaluation.json", {"kl": 27.5, "nll": 88.25, "samples": 500, "images": 1000})
    return made


@pytest.fixture(scope="module")
def address(runs, tmp_path_factory) -> Iterator[str]:
    """The page, served as the command serves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "flowvae", "explore", *map(str, runs), "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "FLOWVAE_CACHE": str(log.parent)},
        )
    try:
        end = time.monotonic() + PATIENCE / 1000
        while "Ctrl-C" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, f"not open in time: {log.read_text()}"
            time.sleep(0.2)
        taken = subprocess.run(
            [sys.executable, "-m", "flowvae", "explore", str(runs[0]), "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (taken.returncode, taken.stderr.count("\n")) == (2, 1), taken.stderr
        assert f"port {port} is not available" in taken.stderr
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        # The browser's own look-ups have nothing to do with the page.
        quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
        opened = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *quiet]
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address, request) -> Iterator[Any]:
    """A fresh page; afterwards, that it asked only its own server, and that no script failed."""
    width = getattr(request, "param", 1280)
    opened = browser.new_page(viewport={"width": width, "height": 900}, has_touch=width < 600)
    opened.set_default_timeout(PATIENCE)
    asked: list[str] = []
    failures: list[str] = []
    opened.on("request", lambda asking: asked.append(asking.url))
    opened.on("pageerror", lambda error: failures.append(str(error)))
    opened.goto(address)
    opened.get_by_role("tab", name="Runs").wait_for()
    yield opened
    if SHOTS:
        opened.screenshot(path=str(Path(SHOTS) / f"{request.node.name}.png"), full_page=True)
    opened.close()
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not failures


def open_view(page: Any, title: str) -> Any:
    page.get_by_role("tab", name=title, exact=True).click()
    panel = page.get_by_role("tabpanel", name=title)
    return panel if panel.count() else page


def drag(
    page: Any, target: Any, start: tuple[float, float], end: tuple[float, float], steps: int = 12
) -> None:
    """With the left button, between points given as shares of the target's sides."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=steps)
    page.mouse.up()


def visible(page: Any, selector: str) -> Any:
    return page.locator(f"{selector}:visible").first


def first_of(cells: Any) -> str:
    """The name in the first row of the table that has one."""
    return next(text for text in cells.all_inner_texts() if text in ("vae", "realnvp-2"))


def test_runs_are_compared(page):
    cells = page.locator(".fv-table [role=gridcell]")
    cells.filter(has_text="88.25").first.wait_for()
    assert first_of(cells) == "vae"
    head = page.locator(".fv-table [role=columnheader][title='-log p(x)']").first
    head.locator("span").first.click()
    head.get_by_label("Open cell menu").click(force=True)
    page.get_by_role("menuitem", name="Sort ascending").click()
    cells.filter(has_text="realnvp-2").first.wait_for()
    page.wait_for_timeout(500)
    assert first_of(cells) == "realnvp-2"
    curves = page.locator(".fv-figure svg:visible")
    curves.wait_for()
    assert curves.locator("[id^=line2d]").count() > 2
    page.get_by_role("checkbox", name="vae", exact=True).uncheck()
    page.get_by_text("There is no training curve to show").wait_for()
    differences = visible(page, ".fv-plain")
    assert re.search(r"posterior\s+gaussian\s+realnvp", differences.inner_text())
    assert re.search(r"transformations\s+2\s", differences.inner_text()), "a Gaussian has none"


def test_the_plane_answers_a_drag(page):
    open_view(page, "Latent plane")
    canvas = visible(page, ".fv-map")
    image = visible(page, ".fv-decoded")
    page.wait_for_function("document.querySelector('.fv-plane').dataset.milliseconds")
    before = image.get_attribute("src")
    times = []
    for end in ((0.9, 0.1), (0.1, 0.9), (0.9, 0.9)):
        drag(page, canvas, (0.5, 0.5), end)
        page.wait_for_timeout(200)
        times.append(float(page.locator(".fv-plane").get_attribute("data-milliseconds")))
    assert image.get_attribute("src") != before
    # The least of several: other work on the machine can hold up any one of them.
    assert min(times) < 100
    place = visible(page, ".fv-plane output").inner_text()
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    assert visible(page, ".fv-plane output").inner_text() != place
    plain = canvas.evaluate("canvas => canvas.toDataURL()")
    dots = page.get_by_label("test images, projected onto the plane")
    dots.check()
    assert canvas.evaluate("canvas => canvas.toDataURL()") != plain
    dots.uncheck()
    assert canvas.evaluate("canvas => canvas.toDataURL()") == plain
    page.get_by_text("three points of your choice").click()
    page.wait_for_function("document.querySelector('.fv-plane output').textContent === '(0.50, 0.25)'")


def test_the_plane_says_why_there_is_no_image(page):
    open_view(page, "Latent plane")
    page.wait_for_function("document.querySelector('.fv-plane').dataset.milliseconds")
    image, failure = visible(page, ".fv-decoded"), page.locator(".fv-map-side .fv-flag")
    failing = {
        "there is no such run": lambda route: route.fulfill(json={"error": "there is no such run"}),
        "the server does not answer": lambda route: route.abort(),
    }
    for said, answer in failing.items():
        page.route("**/component_server/**", answer)
        visible(page, ".fv-map").focus()
        page.keyboard.press("ArrowLeft")
        page.get_by_text(said).wait_for()
        assert image.get_attribute("src") is None
        page.unroute_all()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.fv-decoded').src")
    assert failure.inner_text() == ""


def test_the_pad_takes_large_images_of_any_sides(browser):
    opened = browser.new_page()
    opened.set_content("<section><div></div></section>")
    script = "".join((STATIC / name).read_text() for name in ("common.js", "pad.js"))
    opened.evaluate(
        """script => {
          window.props = { value: "", label: "image: ink 3 256 384" };
          const names = ["element", "props", "watch", "trigger"];
          const begin = new Function(...names, script);
          begin(document.querySelector("section"), window.props, () => {}, () => {});
        }""",
        script,
    )
    canvas = opened.locator("canvas")
    box = canvas.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(384 / 256, rel=0.02)
    drag(opened, canvas, (0.1, 0.1), (0.9, 0.9))
    drawn = base64.b64decode(opened.evaluate("window.props.value"))
    assert len(drawn) == 3 * 256 * 384
    assert any(drawn)
    opened.close()


def test_a_walk_follows_the_slider_and_a_drag(page):
    open_view(page, "Interpolate")
    rows = page.locator(".fv-walk")
    rows.nth(1).wait_for()
    assert rows.count() == 2
    slider = page.get_by_label("place on the way")
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "image 1 of 21"
    first = rows.first.locator(".fv-number").inner_text()
    drag(page, visible(page, ".fv-over"), (0.1, 0.5), (0.99, 0.5))
    assert slider.get_attribute("aria-valuetext") == "image 21 of 21"
    assert rows.first.locator(".fv-number").inner_text() != first
    sheet = rows.first.locator(".fv-sheet").get_attribute("src")
    visible(page, "button:has-text('Another')").click()
    page.wait_for_function("old => document.querySelector('.fv-sheet').src !== old", arg=sheet)


def test_a_posterior_is_unrolled(page):
    open_view(page, "Posterior")
    stops = page.locator(".fv-stops button")
    stops.nth(2).wait_for()
    assert stops.count() == 3
    assert page.locator(".fv-bars tr").count() == 2
    title = visible(page, ".fv-stage-title")
    assert "after 2 of 2" in title.inner_text()
    slider = page.get_by_label("how far the samples have come")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert "after 1 of 2" in title.inner_text()
    stops.first.click()
    assert "drawn from the Gaussian" in title.inner_text()
    assert contrast(page, "--body-text-color-subdued") >= 4.5, "the axis numbers' colour"
    page.get_by_text("Play").click()
    page.wait_for_function("document.querySelector('.fv-stage-title').textContent.includes('after 2 of 2')")
    assert ink(page, ".fv-stage") > 200
    choose(page, "vae")
    page.get_by_text("This posterior is the Gaussian itself").wait_for()


def contrast(page: Any, name: str) -> float:
    """Of one of the page's colours with white, as the WCAG defines it."""
    colour = page.evaluate(
        """name => {
          const context = document.createElement("canvas").getContext("2d");
          const style = getComputedStyle(document.querySelector(".fv-stage"));
          context.fillStyle = style.getPropertyValue(name).trim();
          return context.fillStyle;
        }""",
        name,
    )
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares)
    return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)


def ink(page: Any, selector: str) -> int:
    """How many pixels of a canvas are not white."""
    return page.evaluate(
        """selector => {
          const canvas = document.querySelector(selector);
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4) count += data[i] + data[i + 1] + data[i + 2] < 740;
          return count;
        }""",
        selector,
    )


def test_what_is_drawn_is_scored(page):
    open_view(page, "Score")
    number = visible(page, ".fv-score td.fv-number")
    number.wait_for()
    before = number.inner_text()
    pad = visible(page, ".fv-canvas")
    drag(page, pad, (0.1, 0.9), (0.9, 0.9))
    page.wait_for_function(
        "old => document.querySelector('.fv-score td.fv-number').textContent !== old", arg=before
    )
    drawn = number.inner_text()
    pad.focus()
    for _ in range(12):  # from the middle, which may be black already, to where paper is left
        page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.wait_for_function(
        "old => document.querySelector('.fv-score td.fv-number').textContent !== old", arg=drawn
    )
    page.get_by_text("of the test images").first.wait_for()


def choose(page: Any, title: str) -> None:
    """Another run, of the open view."""
    visible(page, "input[role=listbox], .wrap-inner input").click()
    page.get_by_role("option", name=title, exact=True).click()


def test_a_model_without_a_code_is_scored_exactly(page):
    open_view(page, "Score")
    numbers = page.locator(".fv-score:visible td.fv-number")
    numbers.nth(3).wait_for()
    page.get_by_text("S = 32, nats").wait_for()
    choose(page, "pixelcnn")
    page.get_by_text("exact", exact=True).wait_for()
    assert numbers.count() == 1
    assert page.locator(".fv-score:visible figure").count() == 1, "there is no reconstruction"
    page.get_by_text("of this one, nats").wait_for()
    choose(page, "vae")
    numbers.nth(3).wait_for()


def test_a_model_without_a_code_says_that_it_takes_no_temperature(page):
    open_view(page, "Samples")
    page.locator(".fv-samples:visible figure").nth(23).wait_for()
    choose(page, "pixelcnn")
    page.wait_for_function("document.querySelector('.fv-download').download.startsWith('pixelcnn')")
    temperature = page.get_by_label("range slider for temperature")
    temperature.focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("no code to apply a temperature to").wait_for()
    assert page.locator(".fv-samples:visible figure").count() == 0
    page.keyboard.press("ArrowRight")
    page.locator(".fv-samples:visible figure").nth(23).wait_for()


def test_views_list_the_runs_that_they_can_show(page):
    for title, expected in (
        ("Samples", ["vae", "pixelcnn", "realnvp-2"]),
        ("Posterior", ["vae", "realnvp-2"]),
    ):
        open_view(page, title)
        visible(page, "input[role=listbox], .wrap-inner input").click()
        page.get_by_role("option", name="vae", exact=True).wait_for()
        assert [text.strip(" ✓\n") for text in page.get_by_role("option").all_inner_texts()] == expected
        page.keyboard.press("Escape")


def test_uploads_are_taken_or_refused_with_a_message(page, tmp_path):
    open_view(page, "Score")
    visible(page, ".fv-score").wait_for()
    files = page.get_by_role("tabpanel").locator("input[type=file]")
    chooser = next(each for each in files.all() if each.locator("xpath=../..").is_visible())
    good, empty, text, large = (tmp_path / f"{name}.png" for name in ("good", "empty", "text", "large"))
    Image.new("L", (60, 60)).save(good)
    empty.write_bytes(b"")
    text.write_bytes(b"no picture")
    Image.new("1", (10_000, 10_000)).save(large)
    for path, said in ((empty, "empty"), (text, "cannot be read as an image"), (large, "10,000 x 10,000")):
        chooser.set_input_files(path)
        page.get_by_text(re.compile(said)).first.wait_for()
    pad = ".fv-canvas:visible"
    before = page.locator(pad).first.evaluate("canvas => canvas.toDataURL()")
    chooser.set_input_files(good)
    page.wait_for_function(
        """old => [...document.querySelectorAll('.fv-canvas')]
        .some(canvas => canvas.offsetParent && canvas.toDataURL() !== old)""",
        arg=before,
    )
    page.get_by_text("uploaded", exact=True).wait_for()
    several = next(
        each for each in files.all() if each.is_enabled() and each.get_attribute("multiple") is not None
    )
    several.set_input_files([good, good])
    page.locator(".fv-files tbody tr").nth(1).wait_for()
    page.get_by_role("spinbutton", name="test image").last.fill("3")
    page.get_by_text("uploaded", exact=True).wait_for(state="detached")


def test_samples_are_drawn_and_kept(page):
    open_view(page, "Samples")
    first = visible(page, ".fv-samples img")
    first.wait_for()
    assert page.locator(".fv-samples:visible figure").count() == 24
    before = first.get_attribute("src")
    count = page.get_by_label("range slider for images")
    count.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelectorAll('.fv-samples figure').length === 20")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelectorAll('.fv-samples figure').length === 24")
    page.get_by_role("button", name="Draw others").click()
    page.wait_for_function("old => document.querySelector('.fv-samples img').src !== old", arg=before)
    with page.expect_download() as download:
        page.get_by_text("Download as PNG").click()
    assert download.value.suggested_filename == "realnvp-2-samples-1.png"
    with Image.open(download.value.path()) as picture:
        assert picture.size == (8 * (8 * 30 + 2), 8 * (3 * 30 + 2))


def test_what_is_hidden_is_filled_in(page):
    open_view(page, "Fill in")
    first = visible(page, ".fv-completions img")
    first.wait_for()
    assert page.locator(".fv-completions figure").count() == 17
    page.get_by_text("50% of the pixels are hidden").wait_for()
    visible(page, "button:has-text('Clear')").click()
    page.get_by_text("Nothing is hidden yet").wait_for()
    drag(page, visible(page, ".fv-canvas"), (0.3, 0.3), (0.7, 0.7))
    first.wait_for()


UNREADABLE = """() => [...document.querySelectorAll("body *")].filter((part) => {
  const written = [...part.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const box = part.getBoundingClientRect();
  if (!written || !part.checkVisibility() || !box.width || /STYLE|SCRIPT/.test(part.tagName)) return false;
  const svg = part.ownerSVGElement;
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  return parseFloat(getComputedStyle(part).fontSize) * scale < 11;
}).map((part) => part.textContent)"""
"""text of less than 11 pixels"""


@pytest.mark.parametrize("page", [390], indirect=True, ids=["390 pixels"])
def test_everything_fits_on_a_phone(page):
    for title in ("Runs", "Latent plane", "Interpolate", "Posterior", "Score", "Samples", "Fill in"):
        tab = page.get_by_role("tab", name=title, exact=True)
        if not tab.is_visible():
            page.locator(".overflow-menu > button").first.click()
            page.get_by_role("button", name=title, exact=True).or_(tab).first.click()
        else:
            tab.click()
        page.wait_for_timeout(1500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, title
        assert not page.evaluate(UNREADABLE), title
        if SHOTS:
            page.screenshot(path=str(Path(SHOTS) / f"phone-{title}.png"), full_page=True)


def test_tabs_are_reached_by_keys(page):
    page.get_by_role("tab", name="Runs", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    visible(page, ".fv-map").wait_for()
