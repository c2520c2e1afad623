"""How the server bears load: `python scripts/server_load.py [--model stub|embedded] [--minutes M] [--clients N]`.

Clients send small edits to `POST /v1/images/edits` as fast as they are answered. Prints requests per second, percentiles of the
latency, and the server's memory at the start, and after each fifth of the time.
"""

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.server import pictures
from tests.server.stub import serving, settings_for, until


def stub_server(folder: str, address: "multiprocessing.Queue[str]") -> None:
    """The real server around an editor that paints flat colour, in a process of its own so that its memory can be read."""
    with serving(settings_for(Path(folder), limits={"keep_bytes": 2**26})) as where:
        address.put(where)
        time.sleep(1e9)


def client(address: str, end: float, seconds: list[float], failures: list[str]) -> None:
    """One client that sends edits until the time is over."""
    files = {"image": pictures.PICTURE, "mask": pictures.MASK}
    with httpx.Client(base_url=address, timeout=120, verify=False) as http:
        while time.monotonic() < end:
            start = time.monotonic()
            answer = http.post("/v1/images/edits", files=files, data={"prompt": "a red ball", "steps": "4"})
            seconds.append(time.monotonic() - start)
            if answer.status_code != 200:
                failures.append(answer.text)


def measure(address: str, pid: int, minutes: float, clients: int) -> None:
    """Load the server and print what it did."""
    memory = [psutil.Process(pid).memory_info().rss]
    seconds: list[float] = []
    failures: list[str] = []
    start = time.monotonic()
    threads = [threading.Thread(target=client, args=(address, start + 60 * minutes, seconds, failures)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for fifth in range(1, 6):
        time.sleep(max(0.0, start + 12 * minutes * fifth - time.monotonic()))
        memory.append(psutil.Process(pid).memory_info().rss)
    for thread in threads:
        thread.join()
    spent = time.monotonic() - start
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    print(
        f"{clients} clients, {spent:.0f} s: {len(seconds)} edits, {len(failures)} failures, {len(seconds) / spent:.2f} per second"
    )
    print(f"latency: median {p50:.2f} s, 95 % {p95:.2f} s, 99 % {p99:.2f} s")
    print("memory, MiB: " + ", ".join(f"{size / 2**20:.0f}" for size in memory))


def main() -> None:
    """Start the server that was asked for and load it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["stub", "embedded"], default="stub")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--clients", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.model == "stub":
            queue: multiprocessing.Queue[str] = multiprocessing.Queue()
            stub = multiprocessing.Process(target=stub_server, args=(folder, queue), daemon=True)
            stub.start()
            measure(queue.get(), stub.pid or 0, asked.minutes, asked.clients)
            stub.kill()
            stub.join()
            return
        command = [sys.executable, "-m", "sfumato", "serve", "--port", "0", "--data", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = server.stdout.readline().split()[3].rstrip("/")
            with httpx.Client(base_url=address, verify=False) as http:
                until(lambda: http.get("/readyz").status_code == 200, 120)
            measure(address, server.pid, asked.minutes, asked.clients)
            server.terminate()


if __name__ == "__main__":
    main()
