"""The page's tasks: removing without words, and extending a picture by margins, by keyboard too."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.server.page import download, drawn, hold, make_edit, open_picture, paint


def test_removing_needs_a_mask_and_no_words(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    open_picture(page, picture)
    paint(page)
    assert page.inner_text("#hint") == "Say what should appear."
    page.select_option("#task", "remove")
    assert page.is_enabled("#run")
    assert page.is_hidden("#margins")
    make_edit(page)
    page.click("#copy-cli")
    page.wait_for_selector("#toast:not([hidden])")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("sfumato remove photo.png --mask photo-mask.png")
    page.click("#show-history")
    page.wait_for_selector("#history-list b")
    assert page.inner_text("#history-list b") == "Remove"  # no words name it


def test_a_method_without_the_task_cannot_be_used(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    paint(page)
    page.fill("#prompt", "a ball")
    page.select_option("#method", "blended-diffusion")
    assert page.is_enabled("#run")
    page.select_option("#task", "remove")
    assert page.inner_text("#hint") == "Blended Diffusion cannot do this task: choose another method."
    assert page.is_disabled("#run")
    assert page.is_disabled("#method option[value='blended-diffusion']")
    page.select_option("#method", "repaint")
    assert page.is_enabled("#run")


def test_extending_shows_its_margins_and_keeps_the_picture(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    open_picture(page, picture)
    before = page.inner_text("#zoom-text")
    page.focus("#task")
    page.keyboard.press("e")  # "Edit" to "Extend", as the browser's own select does
    assert page.input_value("#task") == "outpaint"
    page.fill("#margin-left", "50%")
    page.fill("#margin-right", "30")
    page.get_by_label("bottom", exact=True).fill("x")
    assert page.inner_text("#hint") == "Give a margin, as 64 or 25%."
    assert page.get_attribute("#margin-bottom", "aria-invalid") == "true"
    assert page.is_disabled("#run")
    page.fill("#margin-bottom", "10")
    assert page.inner_text("#hint") == "The picture grows to 390 by 170 pixels."
    drawn(page)
    assert page.inner_text("#zoom-text") != before  # room for the margins
    make_edit(page)
    result = np.asarray(download(page, "#download").convert("RGB"))
    assert result.shape == (170, 390, 3)
    assert np.array_equal(result[:160, 120:360], np.asarray(Image.open(picture).convert("RGB")))
    page.click("#copy-cli")
    page.wait_for_selector("#toast:not([hidden])")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("sfumato outpaint photo.png --expand '50%,0,30,10'")
    page.click("#copy-python")
    hold(page, "navigator.clipboard.readText().then((text) => text.startsWith('import sfumato'))")
    code = page.evaluate("navigator.clipboard.readText()")
    compile(code, "copied", "exec")
    assert 'task="outpaint"' in code
    assert 'expand=("50%", 0, 30, 10)' in code
    page.click("#use")
    hold(page, "document.querySelector('#canvas').getAttribute('aria-label').includes('390 by 170')")
