"""Jobs, cancels, `kill -9` and a restart: `python scripts/server_restart.py [JOBS]`, 200 by default.

The server runs in a process of its own around a stub editor. Jobs are sent, every fifth is cancelled, and the process is killed
in the middle. Prints what had finished before, and whether every finished result is there after the restart, byte by byte.
"""

import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.server import pictures
from tests.server.stub import serving, settings_for


def run(folder: str, address: "multiprocessing.Queue[str]") -> None:
    """The server, until it is killed."""
    with serving(settings_for(Path(folder), limits={"queue": 1000})) as where:
        address.put(where)
        time.sleep(1e9)


def start(folder: str) -> tuple[multiprocessing.Process, httpx.Client]:
    """A server process and a client of it."""
    queue: multiprocessing.Queue[str] = multiprocessing.Queue()
    process = multiprocessing.Process(target=run, args=(folder, queue), daemon=True)
    process.start()
    return process, httpx.Client(base_url=queue.get(), timeout=60, verify=False)


def main() -> int:
    """Send, cancel, kill, restart, compare; 1 if a finished result is lost."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        process, http = start(folder)
        sent = [pictures.job("a steady red", n=2, seed=i) for i in range(count)]
        jobs = [http.post("/v1/jobs", json=job).json()["id"] for job in sent]
        cancelled = [http.delete(f"/v1/jobs/{job}").json()["outcome"] for job in jobs[4::5]]
        rows: list[dict] = []
        while Counter(row["state"] for row in rows)["succeeded"] < count // 3:
            rows = http.get("/v1/jobs", params={"limit": 200}).json()["data"]
        pictures_of = [image["url"] for row in rows if row["result"] for image in row["result"]["images"]]
        results = {url: http.get(url).content for url in pictures_of[:60]}
        before = Counter(row["state"] for row in http.get("/v1/jobs", params={"limit": 200}).json()["data"])
        process.kill()
        process.join()
        process, http = start(folder)
        after = Counter(http.get(f"/v1/jobs/{job}").json().get("state", "removed") for job in jobs)
        lost = [url for url, data in results.items() if http.get(url).content != data]
        process.kill()
        process.join()
    print(f"{count} jobs, {len(cancelled)} deleted ({Counter(cancelled)['cancelled']} before they had finished)")
    print(f"last seen before kill -9: {dict(before)}")
    print(f"after the restart:        {dict(after)}")
    print(f"{len(results)} finished pictures compared byte by byte, {len(lost)} lost")
    return 1 if lost or after["removed"] > Counter(cancelled)["removed"] or after["queued"] or after["running"] else 0


if __name__ == "__main__":
    sys.exit(main())
