"""Schemathesis against the server's own description: `python scripts/server_fuzz.py [SECONDS]`, 60 by default.

The server is the real one around a stub editor, so that every request is read, checked, queued and answered. Ends with status
0 if nothing was answered 5xx.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.server.stub import serving, settings_for


def main() -> int:
    """Run Schemathesis' fuzzer for a while."""
    seconds = sys.argv[1] if len(sys.argv) > 1 else "60"
    with tempfile.TemporaryDirectory() as folder, serving(settings_for(Path(folder))) as address:
        command = ["schemathesis", "fuzz", address + "/openapi.json", "--checks", "not_a_server_error", "--max-time", seconds]
        return subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
