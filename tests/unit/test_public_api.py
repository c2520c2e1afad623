"""What programs and people rely on does not change unnoticed."""

import difflib
import runpy
from pathlib import Path


def test_the_public_api_is_what_the_list_says(root: Path) -> None:
    made = runpy.run_path(str(root / "docs" / "public_api.py"))["text"]()
    stored = (root / "docs" / "public_api.txt").read_text(encoding="utf-8")
    changes = "\n".join(difflib.unified_diff(stored.splitlines(), made.splitlines(), "listed", "is", n=1, lineterm=""))
    assert not changes, f"the public API changed: if that is meant, run python docs/public_api.py\n{changes}"
