"""Plot quality against time of a benchmark's variants: `python scripts/quality_and_time.py bench-out/results.json plot.svg`.

Of each variant the mean over tasks of the precision of the first-ranked prediction and of the seconds of an edit, with intervals.
"""

import json
import sys
from pathlib import Path

from sfumato.bench.plots import standalone
from sfumato.bench.report import AGAINST_TIME, precision_against_time
from sfumato.pictures.writing import write_text


def main() -> None:
    """Read, plot and write."""
    results, target = map(Path, sys.argv[1:])
    rows = json.loads(results.read_text(encoding="utf-8"))["summary"]
    write_text(standalone(precision_against_time(rows, named=True), AGAINST_TIME), target)


if __name__ == "__main__":
    main()
