"""A phone's pictures are taken; how much is uploaded and decoded at once is bounded; refusals name the option to raise."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from sfumato.server import service
from sfumato.server.security import SecurityMiddleware
from sfumato.server.submission import check_pictures
from tests.server import pictures
from tests.server.stub import finished, serving, settings_for, until


def test_a_phones_picture_is_edited(client: httpx.Client) -> None:
    photograph = pictures.photograph().resize((6000, 4000))
    data = pictures.encoded(photograph, "JPEG")
    form = {"prompt": "a red ball", "box": "100,100,50,50", "n": "2"}
    job = finished(client, client.post("/v1/jobs", data=form, files={"image": data}).json()["id"], 60)
    assert job["state"] == "succeeded", job["error"]
    assert (job["result"]["width"], job["result"]["height"]) == (6000, 4000)
    result = client.get(job["result"]["images"][1]["url"]).content
    assert (np.asarray(pictures.decoded(result))[100:150, 100:150] == (200, 20, 30)).all()


@pytest.mark.parametrize(
    ("limits", "option"),
    [({"pixels": 1000}, "--max-pixels"), ({"picture_bytes": 100}, "--max-mib"), ({"body_bytes": 100}, "--max-mib")],
)
def test_refusals_name_the_option(data: Path, limits: dict[str, int], option: str) -> None:
    with serving(settings_for(data, limits=limits)) as address, httpx.Client(base_url=address, verify=False) as client:
        refused = client.post("/v1/jobs", json=pictures.job())
        assert refused.status_code in (413, 422)
        assert option in refused.json()["error"]["message"]
        if "pixels" in limits:
            size = client.post("/v1/jobs", json=pictures.job(size=[100, 100])).json()["error"]
            assert option in size["message"]


def test_few_pictures_are_decoded_at_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def slow(*given: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        check_pictures(*given)
        with lock:
            now -= 1

    monkeypatch.setattr(service, "check_pictures", slow)
    with serving(settings_for(data, limits={"decoded": 2})) as address, httpx.Client(base_url=address, verify=False) as client:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda seed: client.post("/v1/jobs", json=pictures.job(seed=seed)).status_code, range(8)))
    assert set(answers) == {202}
    assert most == 2


def test_bodies_are_bounded_together_and_forgotten_when_answered(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    middlewares: list[SecurityMiddleware] = []
    start = SecurityMiddleware.__init__

    def remember(self: SecurityMiddleware, *given: Any, **settings: Any) -> None:
        start(self, *given, **settings)
        middlewares.append(self)

    monkeypatch.setattr(SecurityMiddleware, "__init__", remember)
    with serving(settings_for(data, limits={"bodies_bytes": 300_000})) as address:
        body = b"x" * 200_000

        def half() -> Any:
            yield body[:150_000]
            until(lambda: len(answers) == 1)
            yield body[150_000:]

        answers: list[httpx.Response] = []
        with httpx.Client(base_url=address, timeout=30, verify=False) as client, ThreadPoolExecutor(1) as pool:
            headers = {"content-type": "application/json", "content-length": str(len(body))}
            first = pool.submit(client.post, "/v1/jobs", content=half(), headers=headers)
            until(lambda: middlewares[0].held >= 150_000)
            answers.append(httpx.post(f"{address}/v1/jobs", content=body, headers=headers))
            assert first.result().json()["error"]["code"] == "json-invalid"
            assert answers[0].status_code == 503
            assert answers[0].json()["error"]["code"] == "busy"
            assert answers[0].headers["retry-after"] == "5"
            until(lambda: middlewares[0].held == 0)
            assert client.post("/v1/jobs", json=pictures.job()).status_code == 202


def test_previews_of_a_large_picture_are_made_from_a_small_one(tmp_path: Path) -> None:
    from sfumato.editing.sampling import Progress
    from sfumato.masks.window import Window
    from sfumato.request import EditRequest
    from sfumato.server.previews import Previewer

    pictures.photograph().resize((3000, 2000)).save(tmp_path / "a.png")
    request = EditRequest(image=tmp_path / "a.png", prompt="a ball", box=(1000, 500, 600, 500))
    window = Window(left=900, top=400, width=1000, height=1000)
    progress = Progress(
        stage="denoise", step=1, total=2, preview=lambda: Image.new("RGB", (128, 128), (200, 20, 30)), window=window
    )
    previewer = Previewer(request, 10**7)
    small = pictures.pixels(pictures.decoded(previewer.small(progress)))
    whole = pictures.pixels(previewer.whole(progress))
    assert (small.shape, whole.shape) == ((512, 768, 3), (2000, 3000, 3))
    assert (whole[500:1000, 1000:1600] == (200, 20, 30)).all()
    expected = np.asarray(Image.fromarray(whole).resize((768, 512), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - expected).mean() < 4
    undecoded = replace(progress, latent_preview=lambda: Image.new("RGB", (16, 16), (20, 200, 30)))
    other = pictures.pixels(pictures.decoded(previewer.small(undecoded)))
    assert np.abs(other[140:250, 262:404] - (20, 200, 30)).max() < 8
    assert previewer.whole(undecoded).tobytes() == previewer.whole(progress).tobytes()
