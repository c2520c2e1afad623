"""`sfumato bench speed`: options. What it does is imported when it is called, so that help is fast."""

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli.arguments import Debug, Json, Out
from sfumato.cli.failures import reported


def speed(
    tier: Annotated[str, typer.Option(help="A minute, or about fifteen.", metavar="bar|local")] = "bar",
    row: Annotated[
        list[str] | None, typer.Option(help="Only this row, as calls or overhead; may be repeated.", metavar="NAME")
    ] = None,
    side: Annotated[
        int | None, typer.Option(min=64, max=1024, help="Side of the pictures in pixels, a multiple of 64.", metavar="INT")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Steps of edits with equal steps.", metavar="INT")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="For the rounds of each row.", metavar="FLOAT")] = None,
    out: Out = Path("bench-speed"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure speed: calls and FLOPs counted, own overhead, and ratios of times against diffusers and bare forward passes."""
    with reported(as_json, debug, "stopped; the rows that were finished are kept."):
        from sfumato.cli.bench_speed import run

        run(tier=tier, rows=tuple(row or ()), side=side, steps=steps, seconds=seconds, out=out, as_json=as_json)
