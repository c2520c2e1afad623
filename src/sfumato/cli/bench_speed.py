"""`sfumato bench speed`: measures what edits cost."""

import json
from pathlib import Path

import typer
from rich.console import Console

from sfumato.cli.destination import only_folder
from sfumato.errors import OptionError


def run(
    *, tier: str, rows: tuple[str, ...], side: int | None, steps: int | None, seconds: float | None, out: Path, as_json: bool
) -> None:
    """Measure, write and print; see `sfumato bench speed --help`.

    Raises:
        OptionError: tier-unknown, row-unknown, option-invalid, output-invalid, data-invalid.
    """
    only_folder(out)
    if side is not None and side % 64:
        raise OptionError(f"--side {side} is no multiple of 64.", code="option-invalid")
    from sfumato.backbones.hushing import hush_libraries

    hush_libraries()
    from sfumato.bench.speed import measuring, report

    chosen = measuring.tier(tier)
    measuring.check_rows(rows)
    report.read(out)  # what cannot be added to is refused before anything is measured
    budget = chosen.seconds if seconds is None else seconds
    made = []
    with Console(stderr=True).status("") as status:
        for name in rows or chosen.names:
            status.update(name)
            made += measuring.measure(name, chosen.size_of(name, side, steps), budget)
            report.write(made, out)
    if as_json:
        for record in made:
            typer.echo(json.dumps(record))
        return
    shown = Console()
    if not shown.is_terminal:
        shown = Console(width=200)
    for table in report.tables(made):
        shown.print(table)
        shown.print()
    typer.echo(f"{out / report.LINES}  all numbers")
