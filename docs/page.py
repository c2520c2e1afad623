"""Write the pictures of the page in docs/images: `python docs/page.py`.

Starts the server with the embedded model, and drives its page in Chromium (`apt-get install chromium`): the example edited on a
desktop, light and dark, and its mask on a phone. The fonts are those of the machine.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "has_touch": True, "is_mobile": True}
PATIENCE_SECONDS = 300.0


@contextmanager
def server() -> Iterator[str]:
    """The command on a free port, once its model is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sfumato", "serve", "--port", "0", "--data", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            try:
                assert running.stdout is not None
                address = running.stdout.readline().split()[3].rstrip("/")
                with httpx.Client(base_url=address, timeout=60, verify=False) as client:
                    wait(lambda: client.get("/readyz").status_code == 200)
                yield address
            finally:
                running.terminate()


def wait(condition: Any) -> None:
    """Until it holds.

    Raises:
        TimeoutError: After five minutes.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("The page did not get there within five minutes; try again on a machine that is less busy.")
        time.sleep(0.1)


def shoot(browser: Any, address: str, name: str, *, edit: bool, **options: Any) -> None:
    """One picture of the page with the example, before or after the edit."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE_SECONDS)
    page.goto(address)
    wait(lambda: page.evaluate("document.querySelector('#method').options.length > 0"))
    page.click("#example")
    wait(lambda: page.is_enabled("#run"))
    if edit:
        page.click("#run")
        page.wait_for_selector("#studio[data-mode=compare]")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    Image.open(path).convert("RGB").save(path, optimize=True)
    context.close()


def main() -> None:
    """Take all of them."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    with server() as address, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        shoot(browser, address, "page", edit=True, color_scheme="light", **DESKTOP)
        shoot(browser, address, "page_dark", edit=True, color_scheme="dark", **DESKTOP)
        shoot(browser, address, "page_phone", edit=False, color_scheme="light", **PHONE)
        browser.close()


if __name__ == "__main__":
    main()
