"""The page's seed: the die, what is copied, what comes back from the history."""

from pathlib import Path
from typing import Any

from tests.server.page import hold, make_edit, open_picture, paint


def test_the_die_means_another_seed_for_every_edit(server: str, open_page: Any, picture: Path) -> None:
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    open_picture(page, picture)
    paint(page)
    page.fill("#prompt", "a red ball")
    page.fill("#n", "2")
    page.click("#dice")
    assert (page.input_value("#seed"), page.get_attribute("#dice", "aria-pressed")) == ("-1", "true")
    seeds = []
    for _ in range(2):
        make_edit(page)
        labels = [tile.get_attribute("aria-label") for tile in page.locator("#strip button").all()]
        seeds.append([int(label.rpartition(" ")[2]) for label in labels])
        assert seeds[-1][1] == seeds[-1][0] + 1
    assert seeds[0] != seeds[1]
    page.click("#copy-cli")
    page.wait_for_selector("#toast:not([hidden])")
    assert page.evaluate("navigator.clipboard.readText()").endswith(f"--seed {seeds[1][0]}"), "it can be made again"
    page.keyboard.press("2")
    hold(page, "document.querySelectorAll('#strip button')[1].getAttribute('aria-pressed') === 'true'")
    page.click("#dice")
    assert (page.input_value("#seed"), page.get_attribute("#dice", "aria-pressed")) == (str(seeds[1][1]), "false")
    page.fill("#seed", "")
    assert page.get_attribute("#dice", "aria-pressed") == "true"
