"""The page's advanced drawer: it has what the chosen method uses, and sends nothing else."""

import json
from pathlib import Path
from typing import Any

from sfumato.methods.base import MethodCard
from sfumato.pictures.reading import read_metadata
from sfumato.pictures.writing import METADATA_KEY
from tests.server.page import hold, make_edit, open_picture, paint
from tests.server.stub import serving, settings_for


def open_drawer(page: Any, method: str) -> None:
    page.click("summary:has-text('Advanced')")
    page.select_option("#method", method)


def command_of(page: Any) -> str:
    """What the page copies after an edit."""
    page.click("#copy-cli")
    page.wait_for_selector("#toast:not([hidden])")
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_fields_come_and_go_with_the_method(server: str, open_page: Any) -> None:
    page = open_page(server)
    open_drawer(page, "blended-latent-diffusion")
    own = page.get_by_role("group", name="LanPaint")
    assert page.locator("#field-shrink").is_visible()
    assert not own.is_visible()
    page.select_option("#method", "lanpaint")
    assert own.get_by_label("Langevin steps").is_visible()
    assert not page.locator("#field-shrink").is_visible()
    assert not page.get_by_label("Jump length").is_visible()
    page.focus("#field-lanpaint-langevin_steps")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "field-lanpaint-langevin_strength"
    assert page.locator("#field-preset").locator("option").all_inner_texts() == ["automatic", "default", "fast", "benchmark"]


def test_what_is_typed_stays_and_only_what_is_shown_is_sent(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    open_picture(page, picture)
    paint(page)
    page.fill("#prompt", "a blue ball")
    open_drawer(page, "blended-latent-diffusion")
    page.select_option("#field-shrink", "on")
    page.select_option("#method", "lanpaint")
    page.fill("#field-lanpaint-langevin_steps", "5")  # the default preset's, but another preset's is another
    page.select_option("#field-preset", "fast")
    page.select_option("#method", "repaint")
    page.fill("#field-repaint-jump_length", "3")
    page.select_option("#method", "lanpaint")
    assert (page.input_value("#field-lanpaint-langevin_steps"), page.input_value("#field-preset")) == ("5", "fast")
    page.fill("#field-size", "64 x 64")
    make_edit(page)
    sent = command_of(page)
    assert "--preset fast --size '64 x 64' --langevin-steps 5 --method lanpaint" in sent
    assert "--shrink" not in sent
    assert "--jump-length" not in sent
    assert page.inner_text("#notes li >> nth=0").startswith("The size 64x64")
    page.select_option("#method", "blended-latent-diffusion")
    assert page.input_value("#field-shrink") == "on"


def test_history_sets_method_and_options_back(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server)
    open_picture(page, picture)
    paint(page)
    for prompt, method in (("a red ball", "blended-latent-diffusion"), ("a green ball", "repaint")):
        page.fill("#prompt", prompt)
        page.select_option("#method", method)
        if method == "repaint":
            page.click("summary:has-text('Advanced')")
            page.fill("#field-repaint-jump_length", "3")
        make_edit(page)
        page.click("#close-results")
    page.fill("#field-repaint-jump_length", "8")
    for prompt, method, length in (
        ("a red ball", "blended-latent-diffusion", ""),
        ("a green ball", "repaint", "3"),
        ("a red ball", "blended-latent-diffusion", ""),
    ):
        page.click("#show-history")
        page.click(f"#history-list button.entry:has-text('{prompt}')")
        hold(page, "(prompt) => document.querySelector('#prompt').value === prompt", prompt)
        assert page.input_value("#method") == method
        assert page.input_value("#field-repaint-jump_length") == length
        page.wait_for_selector("#divider:not([hidden])", state="attached")


def test_an_option_declared_in_a_method_s_file_is_a_field(warmed: MethodCard, data: Path, open_page: Any, picture: Path) -> None:
    with serving(settings_for(data)) as address:
        page = open_page(address, permissions=["clipboard-read", "clipboard-write"])
        open_picture(page, picture)
        paint(page)
        page.fill("#prompt", "a blue ball")
        open_drawer(page, warmed.name)
        field = page.get_by_label("Langevin warmth")
        assert (field.get_attribute("min"), field.get_attribute("max"), field.get_attribute("step")) == ("1", "9", "1")
        assert page.get_by_label("Langevin secret").count() == page.get_by_label("Langevin hidden").count() == 0
        page.evaluate("document.querySelector('#form').noValidate = true")
        field.fill("10")
        page.click("#run")
        page.wait_for_selector("#field-lanpaint-langevin_warmth[aria-invalid=true]")
        field.fill("4")
        switch = page.get_by_label("Langevin switch")
        assert switch.locator("option").all_inner_texts() == ["automatic", "true", "false"]
        switch.select_option("true")
        make_edit(page)
        assert "--langevin-warmth 4 --langevin-switch --method lanpaint" in command_of(page)


def test_control_pictures_are_sent_where_the_server_has_models_for_them(
    server: str, open_page: Any, picture: Path, tmp_path: Path
) -> None:
    page = open_page(server)
    page.click("summary:has-text('Advanced')")
    assert not page.locator("#field-control").is_visible()
    settings = settings_for(tmp_path / "data", models=("stub",), control_models=("depth model",))
    with serving(settings) as address:
        page = open_page(address, permissions=["clipboard-read", "clipboard-write"])
        open_picture(page, picture)
        paint(page)
        page.fill("#prompt", "a blue ball")
        page.click("summary:has-text('Advanced')")
        page.set_input_files("#field-control", picture)
        make_edit(page)
        assert "--control photo.png --control-model 'depth model'" in command_of(page)
        with page.expect_download() as result:
            page.click("#download")
        stored = json.loads(read_metadata(Path(result.value.path()))[METADATA_KEY])
        assert stored["request"]["control"] == ["<240x160 RGB in memory>"]
