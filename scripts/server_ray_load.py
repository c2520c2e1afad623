"""A replica is killed under load: `python scripts/server_ray_load.py [--model stub|embedded-fast] [--requests N] [--clients N]`.

The real server runs over two replicas on a Ray of this machine. Clients send edits to `POST /v1/images/edits`; when a quarter
of them has been answered, one replica is killed. Prints what became of every request, and how long it took.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from queue import Empty, SimpleQueue

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from sfumato.server.settings import Cluster
from tests.server import pictures, ray_stub
from tests.server.stub import serving, settings_for


def client(address: str, numbers: "SimpleQueue[int]", steps: int, ends: list[tuple[str, float]]) -> None:
    """One client that sends edits until there are no more; it tries again when the queue is full, as told."""
    files = {"image": pictures.PICTURE, "mask": pictures.MASK}
    with httpx.Client(base_url=address, timeout=600, verify=False) as http:
        while True:
            try:
                number = numbers.get_nowait()
            except Empty:
                return
            start, fields = time.monotonic(), {"prompt": "a steady red ball", "steps": str(steps), "seed": str(number)}
            while (answer := http.post("/v1/images/edits", files=files, data=fields)).status_code == 429:
                time.sleep(float(answer.headers["retry-after"]))
            code = "" if answer.status_code == 200 else answer.json()["error"]["code"]
            ends.append((f"{answer.status_code} {code}".strip(), time.monotonic() - start))


def main() -> int:
    """Load the server, kill a replica, count; 1 if a request ended in anything but a picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["stub", "embedded-fast"], default="stub")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    asked = parser.parse_args()
    make_editor = ray_stub.make_editor if asked.model == "stub" else ray_stub.make_real_editor
    numbers: SimpleQueue[int] = SimpleQueue()
    for number in range(asked.requests):
        numbers.put(number)
    ends: list[tuple[str, float]] = []
    with ray_stub.local_ray(), tempfile.TemporaryDirectory() as folder:
        settings = settings_for(Path(folder), cluster=Cluster(replicas=2), models=(asked.model,))
        with serving(settings, make_editor, patience=300) as address:
            start = time.monotonic()
            arguments = (address, numbers, asked.steps, ends)
            threads = [threading.Thread(target=client, args=arguments) for _ in range(asked.clients)]
            for thread in threads:
                thread.start()
            while len(ends) < asked.requests // 4:
                time.sleep(0.01)
            ray_stub.replicas()[0].kill()
            killed = time.monotonic() - start
            for thread in threads:
                thread.join()
            spent = time.monotonic() - start
            with httpx.Client(base_url=address, verify=False) as http:
                states = Counter(job["state"] for job in http.get("/v1/jobs", params={"limit": 200}).json()["data"])
    answers = Counter(end for end, _ in ends)
    p50, p95, most = np.percentile([seconds for _, seconds in ends], [50, 95, 100])
    print(f"{asked.requests} requests of {asked.clients} clients in {spent:.0f} s, a replica killed after {killed:.0f} s")
    print(f"answers: {dict(answers)}; the last jobs in the database: {dict(states)}")
    print(f"latency: median {p50:.2f} s, 95 % {p95:.2f} s, most {most:.2f} s")
    return 0 if set(answers) == {"200"} else 1


if __name__ == "__main__":
    sys.exit(main())
