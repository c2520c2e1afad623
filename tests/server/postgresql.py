"""A private PostgreSQL without a network, from Debian's binaries."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARIES = Path("/usr/lib/postgresql")


def folder_of_binaries() -> Path | None:
    """Of the newest version that is installed."""
    found = sorted(BINARIES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def cluster(binaries: Path) -> Iterator[str]:
    """A running cluster; gives the address of its first database. It refuses to run as root, so root becomes `postgres`."""
    folder = Path(tempfile.mkdtemp(prefix="sfumato-pg-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]

    def call(program: str, *arguments: str) -> None:
        command = [*as_user, str(binaries / program), *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    data = str(folder / "data")
    try:
        call("initdb", "-D", data, "-U", "sfumato", "-A", "trust", "--no-sync", "--no-instructions")
        call("pg_ctl", "-D", data, "-w", "-o", f"-k {folder} -h '' -F", "-l", str(folder / "log"), "start")
        try:
            yield f"postgresql://sfumato@/postgres?host={folder}"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
