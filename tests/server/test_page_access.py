"""The page for everybody: by keyboard, by screen reader, on small screens, and where the browser allows less."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.server.page import drawn, hold, make_edit, masked, open_picture, paint
from tests.server.stub import PACES

AXE = os.environ.get("SFUMATO_AXE")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def focused(page: Any) -> str:
    """Id of the element with the focus, or its accessible name if it has none."""
    return str(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))


def start_example(page: Any) -> None:
    page.click("#example")
    hold(page, "document.querySelector('#run').disabled === false")


def test_focus_is_never_lost(server: str, open_page: Any) -> None:
    page = open_page(server)
    page.focus("#example")
    page.keyboard.press("Enter")
    hold(page, "document.activeElement.id === 'canvas'")
    hold(page, "document.querySelector('#run').disabled === false")
    page.fill("#prompt", "a steady red ball")
    page.focus("#run")
    page.keyboard.press("Enter")
    hold(page, "document.activeElement.id === 'cancel'")
    page.wait_for_selector("#divider:not([hidden])", state="attached")
    hold(page, "document.activeElement.getAttribute('aria-label')?.startsWith('Prediction 1, best')")
    page.focus("#use")
    page.keyboard.press("Enter")
    hold(page, "document.querySelector('#canvas').getAttribute('aria-label').startsWith('scene-edited.png')")
    assert focused(page) == "canvas"
    page.keyboard.press("Enter")  # paints, in the middle
    assert masked(page) > 0
    page.focus("#undo")
    page.keyboard.press("Enter")
    assert masked(page) == 0
    assert focused(page) == "undo"


def test_who_types_on_is_left_alone(server: str, open_page: Any) -> None:
    page = open_page(server)
    start_example(page)
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#divider:not([hidden])", state="attached")
    drawn(page)
    assert focused(page) == "prompt"


def test_rows_of_buttons_are_one_stop(server: str, open_page: Any) -> None:
    page = open_page(server)
    start_example(page)
    page.focus("[data-tool=brush]")
    page.keyboard.press("ArrowUp")  # around the end
    assert focused(page) == "redo"
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.get_attribute("[data-tool=scribble]", "aria-pressed") == "true"
    assert page.locator(".rail button[tabindex='0']").count() == 1
    page.focus("#swatches [aria-label=red]")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#swatches [aria-label=orange]", "aria-checked") == "true"
    for _ in range(2):
        make_edit(page)
        page.focus("#strip button")
        page.keyboard.press("ArrowRight")
        assert focused(page).startswith("Prediction 2")


def test_what_happens_is_told(server: str, open_page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACES, "slow", 2_000)
    page = open_page(server)
    start_example(page)
    assert page.get_attribute("#hint", "role") == "status"
    assert "12.8 %" in page.inner_text("#hint")
    page.click("#box-drawer summary")
    for name, value in (("x", 1), ("y", 1), ("w", 20), ("h", 20)):
        page.fill(f"#box-{name}", str(value))
    page.click("#add-box")
    first = page.query_selector("#say p")
    page.click("#add-box")
    assert page.inner_text("#say") == "The box was added to the mask."
    assert not first.evaluate("(before) => before.isConnected")  # a sentence that did not change would not be read again
    page.fill("#prompt", "slow")
    page.click("#run")
    hold(page, "/^[1-9][0-9] percent$/.test(document.querySelector('#say').textContent)")
    assert page.title().endswith(" % · sfumato")
    page.keyboard.press("Escape")
    hold(page, "document.querySelector('#say').textContent === 'Cancelled; nothing was changed.'")
    page.fill("#prompt", "a red ball")
    make_edit(page)
    hold(page, "document.querySelector('#say').textContent === '4 predictions, best first. a note'")
    assert page.title() == "sfumato"
    assert page.get_attribute("#compare", "aria-valuetext") == "50 percent original"
    assert page.get_attribute("#feather", "aria-valuetext") == "automatic"


def test_fields_at_fault_are_shown(server: str, open_page: Any) -> None:
    page = open_page(server)
    start_example(page)
    drawer = page.locator("summary:has-text('Advanced')")
    drawer.click()
    page.fill("#field-steps", "9999")
    drawer.click()
    page.click("#run")
    page.wait_for_selector("#field-steps[aria-invalid=true]")  # visible: its drawer was opened
    assert focused(page) == "field-steps"


def test_keys_of_the_picture(server: str, open_page: Any, picture: Path) -> None:
    """The brush stays where the keys took it when another tool is taken; the hand moves the picture."""
    page = open_page(server)
    open_picture(page, picture)
    page.focus("#canvas")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    assert masked(page) > 0
    page.keyboard.press("e")
    page.keyboard.press("Enter")
    assert masked(page) == 0
    page.keyboard.press("h")
    drawn(page)
    before = page.locator("#canvas").screenshot()
    page.keyboard.press("ArrowRight")
    drawn(page)
    assert page.locator("#canvas").screenshot() != before


def test_straight_lines(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    box = page.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(x - 150, y)
    dot = masked(page)
    page.keyboard.down("Shift")
    page.mouse.click(x + 150, y)
    page.keyboard.up("Shift")
    assert masked(page) > 3 * dot


def test_scribble_is_shown_in_its_colour(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    page.keyboard.press("s")
    page.click("#swatches [aria-label=blue]")
    paint(page)
    page.mouse.move(0, 0)
    drawn(page)
    middle = """() => {
        const {width, height} = document.querySelector('#canvas');
        return [...document.querySelector('#canvas').getContext('2d').getImageData(width / 2, height / 2 + 10, 1, 1).data];
    }"""
    assert page.evaluate(middle) == [0x2F, 0x66, 0xC4, 255]


def test_comparing_closely(server: str, open_page: Any, picture: Path) -> None:
    """The line is dragged on the picture, which can be zoomed and moved meanwhile."""
    page = open_page(server)
    open_picture(page, picture)
    paint(page)
    page.fill("#prompt", "red")
    make_edit(page)
    zoom = page.inner_text("#zoom-text")
    box = page.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    hold(page, "(before) => document.querySelector('#zoom-text').textContent !== before", zoom)
    page.mouse.down()
    page.mouse.move(x + 100, y, steps=3)
    page.mouse.up()
    split = float(page.input_value("#compare"))
    assert split > 52
    page.keyboard.press("h")
    page.mouse.move(x - 150, y)
    page.mouse.down()
    page.mouse.move(x - 100, y, steps=3)
    page.mouse.up()
    assert page.get_attribute("#studio", "data-mode") == "compare"
    assert float(page.input_value("#compare")) == split
    page.keyboard.press("b")
    page.wait_for_selector("#studio[data-mode=paint]")


def test_history_waits_for_the_edit(server: str, open_page: Any) -> None:
    page = open_page(server)
    start_example(page)
    page.fill("#prompt", "a blue ball")
    make_edit(page)
    page.click("#clear")
    page.focus("#canvas")
    page.keyboard.press("Enter")
    share = masked(page)
    page.fill("#prompt", "slow")
    page.click("#run")
    page.click("#show-history")
    page.click("#history-list button.entry")
    page.wait_for_selector("#toast:has-text('Wait for the edit')")
    page.click("#cancel")
    page.wait_for_selector("text=Cancelled; nothing was changed.")
    assert masked(page) == share


def test_copying_without_a_clipboard_object(server: str, open_page: Any) -> None:
    """As on a page that came without TLS from another machine."""
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true})")
    page.reload()
    hold(page, "document.querySelector('#method').options.length > 0")
    start_example(page)
    make_edit(page)
    page.click("#copy-cli")
    page.wait_for_selector("#toast:has-text('Command copied')")
    assert focused(page) == "copy-cli"
    page.evaluate("delete navigator.clipboard")
    assert page.evaluate("navigator.clipboard.readText()").startswith("sfumato edit scene.png 'a red ball'")


@pytest.mark.parametrize("width", [1280, 1024, 390])
def test_nothing_is_cut_off(server: str, open_page: Any, width: int) -> None:
    page = open_page(server)
    page.set_viewport_size({"width": width, "height": 800})
    start_example(page)
    page.click("[data-tool=scribble]")
    drawn(page)
    outside = """[...document.querySelectorAll('.options > *')].filter((part) => {
        const [inner, outer] = [part.getBoundingClientRect(), part.parentElement.getBoundingClientRect()];
        return inner.right > outer.right + 0.5 || inner.left < outer.left - 0.5;
    }).map((part) => part.outerHTML)"""
    assert page.evaluate(outside) == []
    for name in ("Open", "History", "Invert", "Grow", "Shrink", "Clear"):  # their words may be out of sight
        assert page.get_by_role("button", name=name, exact=True).count() == 1, name
    small = """[...document.querySelectorAll('button, summary')].filter((one) => {
        return one.offsetParent && Math.min(one.offsetWidth, one.offsetHeight) < 24;
    }).map((one) => one.outerHTML)"""
    assert page.evaluate(small) == []


@pytest.mark.skipif(AXE is None, reason="SFUMATO_AXE is not set: npm install axe-core, and let it name its axe.min.js")
@pytest.mark.parametrize("look", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"])
def test_axe_finds_nothing(server: str, open_page: Any, look: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACES, "slow", 20_000)
    page = open_page(server, reduced_motion="reduce", **look)
    found: list[str] = []

    def audit(state: str) -> None:
        drawn(page)
        page.evaluate(Path(AXE or "").read_text() + ";0")
        report = page.evaluate("(tags) => axe.run(document, {runOnly: {type: 'tag', values: tags}})", RULES)
        found.extend(f"{state}: {one['id']}: {node['html']}" for one in report["violations"] for node in one["nodes"])

    audit("empty")
    start_example(page)
    audit("mask")
    page.click("[data-tool=scribble]")
    audit("scribble")
    page.fill("#prompt", "slow")
    page.click("#run")
    hold(page, "document.querySelector('#stage-text').textContent.startsWith('Painting, step')")
    audit("progress")
    page.click("#cancel")
    page.wait_for_selector("text=Cancelled; nothing was changed.")
    audit("cancelled")
    page.fill("#prompt", "a red ball")
    make_edit(page)
    audit("results")
    page.click("#close-results")
    page.click("summary:has-text('Advanced')")
    page.click("#box-drawer summary")
    audit("drawers")
    for name in ("history", "keys"):
        page.click(f"#show-{name}")
        page.wait_for_selector(f"#{name} :is(button.entry, dt)")
        audit(name)
        page.keyboard.press("Escape")
    page.fill("#prompt", "memory")
    page.click("#run")
    page.wait_for_selector("#notes li.error")
    audit("failure")
    page.goto(server + "/docs")
    page.wait_for_selector("summary")
    audit("reference")
    assert found == []
