"""What a server must refuse, and what it must never say."""

import base64
import hmac
import logging
from pathlib import Path

import httpx
import pytest

from sfumato.errors import OptionError, ResourceError
from sfumato.server.app import create_app
from sfumato.server.pages import FILES
from sfumato.server.store import Store
from tests.server import pictures
from tests.server.stub import StubEditor, finished, serving, settings_for

TOKEN = "a-token-of-these-tests"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_need_a_token(data: Path, host: str) -> None:
    with pytest.raises(OptionError, match="--token"):
        settings_for(data, host=host).check()
    settings_for(data, host=host, tokens=(TOKEN,)).check()
    settings_for(data, host=host, insecure=True).check()
    assert not data.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_needs_none(data: Path, host: str) -> None:
    settings_for(data, host=host).check()


def test_short_tokens_are_refused(data: Path) -> None:
    with pytest.raises(OptionError, match="16 characters"):
        settings_for(data, tokens=("1234",)).check()


def test_token(data: Path) -> None:
    with serving(settings_for(data, tokens=(TOKEN,))) as address, httpx.Client(base_url=address, verify=False) as client:
        for path in (
            "/v1/models",
            "/v1/jobs",
            "/v1/info",
            "/metrics",
            "/openapi.json",
            "/sdapi/v1/sd-models",
            "/sdapi/v1/progress",
        ):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer wrong-token-of-these"}).status_code == 401
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
            assert client.get(path, auth=("anyone", TOKEN)).status_code == 200
        assert client.post("/v1/images/edits", files={"image": pictures.PICTURE}).status_code == 401
        assert client.get("/v1/jobs").headers["www-authenticate"] == "Bearer"
        for header in ("Basic !!!", "Bearer", "Bearer x y", "Digest x", "Basic " + base64.b64encode(b"\xff").decode()):
            assert client.get("/v1/jobs", headers={"Authorization": header}).status_code == 401
        for path in ("/", "/ui/js/main.js", "/healthz", "/readyz", "/docs"):
            assert client.get(path).status_code == 200


def test_results_need_no_token_but_their_signature(data: Path) -> None:
    with serving(settings_for(data, tokens=(TOKEN,))) as address, httpx.Client(base_url=address, verify=False) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        url = finished(client, client.post("/v1/jobs", json=pictures.job()).json()["id"])["result"]["images"][0]["url"]
        assert httpx.get(address + url).status_code == 200
        assert httpx.get(address + url.partition("?")[0]).status_code == 404


def test_all_tokens_are_compared_in_constant_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return real(a, b)

    with serving(settings_for(data, tokens=(TOKEN, TOKEN + "2"))) as address:
        monkeypatch.setattr(hmac, "compare_digest", counting)
        assert httpx.get(address + "/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert len(compared) == 2


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[", ""])
def test_unknown_hosts_are_refused(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code in (400, 421)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:7860", "192.168.1.4:80"])
def test_addresses_cannot_be_rebound(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_allowed_host(data: Path) -> None:
    with serving(settings_for(data, hosts=("studio.example",))) as address:
        assert httpx.get(address + "/v1/models", headers={"Host": "studio.example"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"])
def test_foreign_pages_are_refused(client: httpx.Client, origin: str) -> None:
    answer = client.post("/v1/jobs", json=pictures.job(), headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_own_page_is_not(client: httpx.Client, server: str) -> None:
    assert client.post("/v1/jobs", json=pictures.job(), headers={"Origin": server}).status_code == 202


def test_foreign_pages_cannot_embed_pictures(client: httpx.Client) -> None:
    hidden = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/v1/jobs", headers=hidden).status_code == 403
    assert client.get("/", headers=hidden | {"Sec-Fetch-Mode": "navigate"}).status_code == 200


def test_simple_requests_are_refused(client: httpx.Client) -> None:
    """What a page of another origin could send without asking: text/plain, and forms without files."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert client.post("/v1/jobs", content=b"{}", headers={"Content-Type": kind}).status_code == 415
        assert client.post("/v1/images/edits", content=b"a=b", headers={"Content-Type": kind}).status_code == 415


def test_no_cors_unless_allowed(client: httpx.Client, data: Path) -> None:
    asked = {"Origin": "https://studio.example", "Access-Control-Request-Method": "POST"}
    answer = client.options("/v1/jobs", headers=asked)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    with serving(settings_for(data, origins=("https://studio.example",))) as address:
        answer = httpx.options(address + "/v1/jobs", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://studio.example"
        assert "access-control-allow-credentials" not in answer.headers
        assert (
            httpx.post(address + "/v1/jobs", json=pictures.job(), headers={"Origin": "https://studio.example"}).status_code == 202
        )


def test_a_preflight_needs_no_token(data: Path) -> None:
    """Browsers cannot send one with it; the request itself needs it, and its refusal can be read by the page."""
    page = {"Origin": "https://studio.example"}
    asked = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serving(settings_for(data, origins=("https://studio.example",), tokens=(TOKEN,))) as address:
        answer = httpx.options(address + "/v1/jobs", headers=asked)
        assert (answer.status_code, answer.headers["access-control-allow-headers"]) == (200, "authorization")
        answer = httpx.post(address + "/v1/jobs", json=pictures.job(), headers=page)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "https://studio.example")


@pytest.mark.parametrize(
    ("origin", "advice"),
    [
        ("https://studio.example/", "give https://studio.example."),
        ("https://Studio.example", "give https://studio.example."),
        ("http://studio.example:8080/app", "give http://studio.example:8080."),
        ("*", "give each as"),
        ("studio.example", "give each as"),
    ],
)
def test_an_origin_that_could_match_nothing_is_refused(data: Path, origin: str, advice: str) -> None:
    with pytest.raises(OptionError) as caught:
        settings_for(data, origins=(origin,)).check()
    assert origin in caught.value.message
    assert advice in caught.value.message
    settings_for(data, origins=("https://studio.example", "http://127.0.0.1:5173", "null")).check()


@pytest.mark.parametrize("path", ["/", "/v1/models", "/nothing", "/ui/css/base.css", "/openapi.json", "/docs"])
def test_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert len(headers["x-request-id"]) == 16
    assert "server" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../app.py",
        "/ui/..%2f..%2fsetup.py",
        "/ui/%2e%2e/%2e%2e/pyproject.toml",
        "/ui//etc/passwd",
        "/ui/%00",
        "/ui/__init__.py",
        "/v1/results/..%2f..%2fjobs.sqlite/0.png",
        "/v1/results/aaaaaaaaaaaaaaaaaaaaaaaa/..%2f..%2fjobs.sqlite?signature=x",
        "/v1/jobs/..%2f..%2fetc",
        "/v1/jobs/" + "a" * 25,
    ],
)
def test_no_path_leads_out(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert 400 <= answer.status_code < 500
    assert b"root:" not in answer.content


def test_only_the_pages_files_are_served() -> None:
    assert {Path(name).suffix for name in FILES} == {".html", ".css", ".js", ".svg", ".png"}


def test_faults_are_logged_and_not_told(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = client.post(
            "/v1/images/edits", files={"image": pictures.PICTURE, "mask": pictures.MASK}, data={"prompt": "break"}
        )
    assert answer.status_code == 500
    assert answer.headers["x-should-retry"] == "false"
    assert "4711" not in answer.text
    assert "Traceback" not in answer.text
    assert "4711" in caplog.text
    assert answer.json()["error"]["message"].split()[-1].rstrip(".") in caplog.text


def test_prompts_are_in_no_label_and_no_row(client: httpx.Client) -> None:
    finished(client, client.post("/v1/jobs", json=pictures.job("red zebra-quartz")).json()["id"])
    client.get("/v1/nonsense-quartz")
    client.request("QUARTZ", "/v1/jobs")
    metrics = client.get("/metrics").text
    assert "quartz" not in metrics.lower()
    assert 'sfumato_jobs_total{api="job",outcome="succeeded"}' in metrics


def test_data_folder_is_private_and_not_shared(data: Path) -> None:
    store = Store(data)
    assert data.stat().st_mode & 0o077 == 0
    with pytest.raises(ResourceError, match="Another server"):
        Store(data)
    store.close()
    Store(data).close()


def test_an_unsafe_server_is_not_even_made(data: Path) -> None:
    with pytest.raises(OptionError):
        create_app(settings_for(data, host="0.0.0.0"), lambda model, device: StubEditor(model))
    assert not data.exists()
