"""Driving the page: what its tests do again and again."""

from pathlib import Path
from typing import Any

from PIL import Image

from tests.server import pictures
from tests.server.stub import until

PATIENCE = 90_000  # milliseconds, for machines that do much else


def hold(page: Any, expression: str, argument: Any = None) -> None:
    """Wait until something holds in the page. Playwright's own way needs `eval`, which the page's policy forbids."""
    until(lambda: bool(page.evaluate(expression, argument)), PATIENCE / 1000)


def open_picture(page: Any, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.click("#open-big" if page.is_visible("#open-big") else "#open")
    chooser.value.set_files(path)
    settle(page)


def settle(page: Any) -> None:
    """Wait until the picture is there and laid out."""
    page.wait_for_selector("#studio[data-mode=paint]")
    drawn(page)


def drawn(page: Any) -> None:
    """Wait until what was done is seen: Chromium takes input frame by frame."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))")


def paint(page: Any) -> None:
    """A stroke across the middle of the picture."""
    box = page.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 20, steps=6)
    page.mouse.up()


def masked(page: Any) -> float:
    """Percent of the picture that is masked, as the page tells it."""
    drawn(page)
    label = page.get_attribute("#canvas", "aria-label")
    return float(label.split()[-3])  # "..., 2.4 percent masked"


def download(page: Any, button: str) -> Image.Image:
    with page.expect_download() as download:
        page.click(button)
    return pictures.decoded(Path(download.value.path()).read_bytes())


def make_edit(page: Any) -> None:
    page.click("#run")
    page.wait_for_selector("#results:not([hidden])")
    page.wait_for_selector("#strip button[aria-pressed='true']")
    page.wait_for_selector("#divider:not([hidden])", state="attached")
