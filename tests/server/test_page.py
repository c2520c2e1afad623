"""The real page in headless Chromium: paint, edit, watch, cancel, compare; by mouse, by touch and by keyboard."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from sfumato import examples
from sfumato.pictures.reading import read_metadata
from sfumato.pictures.writing import METADATA_KEY
from tests.server.page import download, hold, make_edit, masked, open_picture, paint
from tests.server.stub import serving, settings_for, until
from tests.server.test_serve import process, ready

TOKEN = "a-token-of-these-tests"


def test_painting_and_editing_with_the_embedded_model(open_page: Any, tmp_path: Path) -> None:
    """The whole way: paint, edit, progress, cancel one, and every unmasked pixel of the download is the source's."""
    with process(tmp_path / "data") as (_, address), httpx.Client(base_url=address, verify=False) as client:
        until(lambda: ready(client), 120)
        page = open_page(address)
        open_picture(page, examples.SCENE)
        paint(page)
        assert masked(page) > 1
        page.fill("#prompt", "a red ball")
        page.click("summary:has-text('Advanced')")
        page.fill("#field-steps", "200")
        page.click("#run")
        hold(page, "document.querySelector('#stage-text').textContent.startsWith('Painting, step')")
        hold(page, "/, about \\d+ (s|min) left$/.test(document.querySelector('#stage-text').textContent)")
        hold(page, "Number(document.querySelector('[role=progressbar]').getAttribute('aria-valuenow')) > 2")
        page.click("#cancel")
        page.wait_for_selector("text=Cancelled; nothing was changed.")
        assert client.get("/v1/jobs").json()["data"][0]["state"] == "cancelled"

        page.fill("#field-steps", "4")
        page.fill("#n", "2")
        make_edit(page)
        assert page.locator("#strip button").count() == 2
        result = np.asarray(download(page, "#download").convert("RGB"))
        page.click("#close-results")
        mask = np.asarray(download(page, "#save-mask").convert("L")) > 127
        source = np.asarray(Image.open(examples.SCENE).convert("RGB"))
        assert mask.any()
        assert np.array_equal(result[~mask], source[~mask])
        assert (result[mask] != source[mask]).any()


def test_tools_and_undo(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    assert page.inner_text("#hint") == "Paint over what is to change."
    paint(page)
    stroke = masked(page)
    assert 0 < stroke < 50
    page.click("#grow")
    assert masked(page) > stroke
    page.click("#shrink")
    page.click("#invert")
    assert masked(page) > 50
    page.keyboard.press("i")
    page.keyboard.press("e")
    paint(page)
    assert masked(page) < stroke
    for _ in range(5):
        page.keyboard.press("Control+z")
    assert masked(page) == stroke
    page.keyboard.press("Control+z")
    assert masked(page) == 0
    page.keyboard.press("Control+Shift+z")
    assert masked(page) == stroke
    page.click("#clear")
    page.keyboard.press("r")
    paint(page)
    assert 0 < masked(page) < stroke
    zoom = page.inner_text("#zoom-text")
    page.keyboard.press("+")
    hold(page, "(before) => document.querySelector('#zoom-text').textContent !== before", zoom)
    page.keyboard.press("0")
    hold(page, "(before) => document.querySelector('#zoom-text').textContent === before", zoom)


def test_mask_from_a_file(server: str, open_page: Any, picture: Path, tmp_path: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    wanted = np.zeros((160, 240), np.uint8)
    wanted[20:100, 30:90] = 255
    Image.fromarray(wanted).save(tmp_path / "mask.png")
    Image.fromarray(wanted[:50]).save(tmp_path / "small.png")
    for name, expected in (("mask.png", None), ("small.png", "The mask is 240x50 but the image is 240x160")):
        with page.expect_file_chooser() as chooser:
            page.click("#load-mask")
        chooser.value.set_files(tmp_path / name)
        if expected:
            page.wait_for_selector(f"#toast:has-text('{expected}')")
    assert np.array_equal(np.asarray(download(page, "#save-mask").convert("L")), wanted)


def test_masks_from_files_mean_what_they_mean_to_the_server(server: str, open_page: Any, picture: Path, tmp_path: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    wanted = np.zeros((160, 240), np.uint8)
    wanted[20:100, 30:90] = 255
    strokes = np.dstack([np.full_like(wanted, 255)] * 3 + [wanted])
    blue = np.dstack([0 * wanted, 0 * wanted, wanted])
    for mask, note in ((strokes, "brush strokes"), (blue, "#0000ff"), (wanted // 255, "values 0 and 1")):
        Image.fromarray(mask).save(tmp_path / "mask.png")
        page.click("#clear")
        with page.expect_file_chooser() as chooser:
            page.click("#load-mask")
        chooser.value.set_files(tmp_path / "mask.png")
        page.wait_for_selector(f"#toast:has-text('{note}')")
        assert np.array_equal(np.asarray(download(page, "#save-mask").convert("L")), wanted)


def test_results(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    open_picture(page, picture)
    paint(page)
    page.fill("#prompt", "it's a red ball")
    page.fill("#n", "3")
    page.select_option("#field-background", "poisson") if page.is_visible("#field-background") else None
    make_edit(page)
    labels = [tile.get_attribute("aria-label") for tile in page.locator("#strip button").all()]
    assert labels == [f"Prediction {i + 1}, {'' if i else 'best, '}score {1 - i:.2f}, seed {i}" for i in range(3)]
    page.keyboard.press("2")
    hold(page, "document.querySelectorAll('#strip button')[1].getAttribute('aria-pressed') === 'true'")
    page.click("#copy-cli")
    page.wait_for_selector("#toast:not([hidden])")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == "sfumato edit photo.png 'it'\\''s a red ball' --mask photo-mask.png --model stub -n 3 --seed 0"
    page.click("#copy-python")
    hold(page, "navigator.clipboard.readText().then((text) => text.startsWith('import sfumato'))")
    code = page.evaluate("navigator.clipboard.readText()")
    compile(code, "copied", "exec")
    assert '"it\'s a red ball"' in code
    page.locator("#compare").focus()
    page.keyboard.press("End")
    page.wait_for_selector("#tag-after", state="hidden")
    page.click("#use")
    hold(page, "document.querySelector('#canvas').getAttribute('aria-label').startsWith('photo-edited.png')")
    assert page.inner_text("#hint") == "Paint over what is to change."


def test_history_outlives_the_page(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    paint(page)
    share = masked(page)
    page.fill("#prompt", "a blue ball")
    make_edit(page)
    page.reload()
    page.click("#show-history")
    page.click("#history-list button.entry:has-text('a blue ball')")
    page.wait_for_selector("#results:not([hidden])")
    assert page.input_value("#prompt") == "a blue ball"
    assert masked(page) == share
    page.click("#show-history")
    page.click("#history-list button[aria-label='Remove from history: a blue ball']")
    page.wait_for_selector("#history-empty:not([hidden])")


def test_scribble_is_sent(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    page.keyboard.press("s")
    page.click("#swatches button[aria-label='blue']")
    paint(page)
    assert masked(page) > 0
    page.fill("#prompt", "a red ball")
    make_edit(page)
    with page.expect_download() as result:
        page.click("#download")
    stored = json.loads(read_metadata(Path(result.value.path()))[METADATA_KEY])
    assert stored["request"]["scribble"] == "<240x160 RGBA in memory>"


def test_by_keyboard_alone(server: str, open_page: Any) -> None:
    page = open_page(server)
    page.focus("#example")
    page.keyboard.press("Enter")
    hold(page, "document.querySelector('#run').disabled === false")
    before = masked(page)
    page.focus("#canvas")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    assert masked(page) > before
    page.focus("#box-drawer summary")
    page.keyboard.press("Enter")
    for name, value in (("x", 1), ("y", 1), ("w", 20), ("h", 20)):
        page.fill(f"#box-{name}", str(value))
    page.focus("#add-box")
    larger = masked(page)
    page.keyboard.press("Enter")
    assert masked(page) > larger
    page.focus("#prompt")
    page.keyboard.press("b")
    assert page.input_value("#prompt").endswith("b")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#results:not([hidden])")
    page.wait_for_selector("#strip button[aria-pressed='true']")
    page.keyboard.press("Escape")
    page.wait_for_selector("#divider", state="hidden")


def test_everything_has_a_name(server: str, open_page: Any) -> None:
    page = open_page(server)
    page.click("#example")
    hold(page, "document.querySelector('#run').disabled === false")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input:not([type=file]), select, textarea, a')].filter((element) => {
            const labels = [...(element.labels ?? [])].map((label) => label.textContent).join('');
            const named = element.getAttribute('aria-label') || labels.trim() || element.textContent.trim() || element.title;
            return !named && element.getAttribute('aria-hidden') !== 'true';
        }).map((element) => element.outerHTML)"""
    )
    assert unnamed == []
    assert page.get_attribute("html", "lang") == "en"


def test_single_keys_can_be_switched_off(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    page.click("#show-keys")
    page.uncheck("#single-keys")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    assert page.get_attribute("[data-tool=brush]", "aria-pressed") == "true"


def test_light_and_dark(server: str, open_page: Any) -> None:
    page = open_page(server, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.click("#theme")
    light = page.evaluate(background)
    assert sum(map(int, dark[4:-1].split(","))) < 150 < 600 < sum(map(int, light[4:-1].split(",")))
    page.reload()
    assert page.evaluate(background) == light


def test_phone(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server, has_touch=True, is_mobile=True)
    page.set_viewport_size({"width": 390, "height": 844})
    open_picture(page, picture)
    box = page.locator("#canvas").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert masked(page) > 0
    page.fill("#prompt", "red")
    make_edit(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.is_visible("#run")


def test_token(data: Path, open_page: Any, browser: Any) -> None:
    with serving(settings_for(data, tokens=(TOKEN,))) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.fill("#token-input", "a-wrong-token-of-these-tests")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-wrong")
        page.fill("#token-input", TOKEN)
        page.keyboard.press("Enter")
        hold(page, "document.querySelector('#method').options.length > 0")
        page.click("#example")
        hold(page, "document.querySelector('#run').disabled === false")
        make_edit(page)
        context.close()


def test_failures_are_shown(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    paint(page)
    page.fill("#prompt", "memory")
    page.click("#run")
    page.wait_for_selector("#notes li.error:has-text('Out of memory')")
    assert page.is_enabled("#run")


def test_reference(server: str, open_page: Any) -> None:
    page = open_page(server)
    page.goto(server + "/docs")
    page.click("summary:has-text('/v1/images/edits')")
    assert page.is_visible("text=What should appear where the mask is transparent.")
    own = page.locator("details[open] p:has-text('Options of LanPaint alone.') + table")
    assert "langevin_steps" in own.inner_text()
