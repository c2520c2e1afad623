"""`sfumato serve` as a process of its own, with the embedded model: start, stop, kill, restart."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from sfumato.cli.main import app
from tests.server import pictures
from tests.server.stub import finished, until


@contextmanager
def process(data: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command on a free port, and the address that it prints."""
    command = [sys.executable, "-m", "sfumato", "serve", "--port", "0", "--data", str(data), *options]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith("sfumato is at http://127.0.0.1:"), running.stderr.read() if running.stderr else ""
        yield running, line.split()[3].rstrip("/")
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


def ready(client: httpx.Client) -> bool:
    return client.get("/readyz").status_code == 200


def test_start_edit_kill_restart_stop(tmp_path: Path) -> None:
    with process(tmp_path) as (running, address), httpx.Client(base_url=address, timeout=60, verify=False) as client:
        assert client.get("/").status_code == 200  # while the model is still being loaded
        assert client.get("/healthz").status_code == 200
        until(lambda: ready(client), 120)
        done = finished(client, client.post("/v1/jobs", json=pictures.job(steps=2)).json()["id"], 120)
        assert done["state"] == "succeeded"
        picture = client.get(done["result"]["images"][0]["url"]).content
        cut = client.post("/v1/jobs", json=pictures.job(steps=250, n=16)).json()["id"]
        waiting = client.post("/v1/jobs", json=pictures.job()).json()["id"]
        until(lambda: client.get(f"/v1/jobs/{cut}").json()["state"] == "running", 60)
        running.send_signal(signal.SIGKILL)
        running.wait(10)
    with process(tmp_path) as (running, address), httpx.Client(base_url=address, timeout=60, verify=False) as client:
        assert client.get(done["result"]["images"][0]["url"]).content == picture
        for job_id in (cut, waiting):
            job = client.get(f"/v1/jobs/{job_id}").json()
            assert (job["state"], job["error"]["code"]) == ("interrupted", "interrupted")
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_aliases_and_the_log_of_random_seeds(tmp_path: Path) -> None:
    options = ("--model", "embedded-fast", "--model-alias", "gpt-image-2=embedded-fast")
    with process(tmp_path, *options) as (running, address), httpx.Client(base_url=address, timeout=60, verify=False) as client:
        until(lambda: ready(client), 120)
        assert [row["id"] for row in client.get("/v1/models").json()["data"]] == ["embedded-fast", "gpt-image-2"]
        files = {"image": pictures.PICTURE, "mask": pictures.MASK}
        fields = {"prompt": "a red ball", "model": "gpt-image-2", "steps": "1"}
        answer = client.post("/v1/images/edits", files=files, data=fields).json()
        running.send_signal(signal.SIGTERM)
        running.wait(60)
        assert running.stderr is not None
        assert f"drew the random seed {answer['data'][0]['seed']}\n" in running.stderr.read()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.slow
def test_hangup_ends_jobs_as_sigterm_does(tmp_path: Path) -> None:
    with (
        process(tmp_path, "--max-mib", "1") as (running, address),
        httpx.Client(base_url=address, timeout=60, verify=False) as client,
    ):
        until(lambda: ready(client), 120)
        large = client.post("/v1/jobs", data={"prompt": "a ball"}, files={"image": bytes(2**20 + 1)})
        assert large.status_code == 413
        assert "--max-mib" in large.json()["error"]["message"]
        cut = client.post("/v1/jobs", json=pictures.job(steps=250, n=16)).json()["id"]
        until(lambda: client.get(f"/v1/jobs/{cut}").json()["state"] == "running", 60)
        running.send_signal(signal.SIGHUP)
        running.send_signal(signal.SIGHUP)
        assert running.wait(60) == -signal.SIGHUP
    assert not list((tmp_path / "results").iterdir())
    with process(tmp_path) as (_, address), httpx.Client(base_url=address, timeout=60, verify=False) as client:
        assert client.get(f"/v1/jobs/{cut}").json()["state"] in ("cancelled", "interrupted", "succeeded", "failed")


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (("--host", "0.0.0.0"), 2, "give a --token"),
        (("--token", "short"), 2, "at least 16 characters"),
        (("--model", "no/such-model"), 3, "sfumato models pull"),
        (("--model-alias", "gpt-image-2"), 2, "ALIAS=MODEL"),
        (("--model-alias", "gpt-image-2=embedded-fast"), 2, "name one of: embedded."),
        (("--model-alias", "embedded=embedded"), 2, "not free"),
        (("--model-alias", "=embedded"), 2, "not free"),
        (
            (
                "--model",
                "embedded",
                "--model",
                "embedded-fast",
                "--model-alias",
                "a=embedded",
                "--model-alias",
                "a=embedded-fast",
            ),
            2,
            "two models",
        ),
        (("--data", "/dev/null/x"), 4, "--data"),
        (("--vae", "nowhere"), 3, "no autoencoder 'nowhere'"),
        (("--control-model", "nowhere"), 3, "no branch 'nowhere'"),
        (("--model", "embedded", "--model", "embedded-fast", "--branch", "/"), 2, "give one --model"),
        (("--prediction-type", "noise"), 2, "epsilon, v_prediction, sample"),
        (("--model", "embedded", "--model", "embedded-fast", "--prediction-type", "sample"), 2, "give one --model"),
    ],
)
def test_refusals(tmp_path: Path, options: tuple[str, ...], status: int, sentence: str) -> None:
    run = CliRunner().invoke(app, ["serve", "--port", "0", "--data", str(tmp_path), *options])
    assert run.exit_code == status
    assert sentence in run.stderr
    assert run.exception is None or isinstance(run.exception, SystemExit)


def test_missing_extra(tmp_path: Path) -> None:
    """Without its packages the command names the extra."""
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError('No module named fastapi', name='fastapi')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "sfumato", "serve"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert run.returncode == 4
    assert "pip install 'sfumato[server]'" in run.stderr
