"""`sfumato methods` and `sfumato models list`: tables of methods and models."""

import json
from collections.abc import Sequence
from typing import Any

import typer


def show_methods(as_json: bool) -> None:
    """Print the registry's cards."""
    from sfumato.backbones.families import able
    from sfumato.methods.registry import CARDS, fields_of, options_schema

    rows = [
        {
            **{name: getattr(card, name) for name in ("name", "kind", "title", "paper")},
            "tasks": list(card.tasks),
            "needs": able(card.needs),
            "options": list(fields_of(card)),
            "presets": list(card.load().PRESETS),
            **({"own_options": options_schema(card)} if as_json else {}),
        }
        for card in CARDS
    ]
    show(rows, as_json)


def show_models(as_json: bool) -> None:
    """Print the bundled model and those in the model hub's cache."""
    from sfumato.backbones.hub import cached_models

    rows = cached_models()
    if not as_json:
        shown = ("family", "trained_for")
        rows = [{**row, "bytes": f"{row['bytes'] / 2**20:.0f} MB", **{name: row[name] or "-" for name in shown}} for row in rows]
    show(rows, as_json)


def show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print rows that have the same keys, as a JSON list or one below the other, each under its first value."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        (_, title), *details = row.items()
        typer.echo(title)
        for name, value in details:
            typer.echo(f"  {name.replace('_', ' '):12} {', '.join(value) if isinstance(value, list) else value}")
    if not rows:
        typer.echo("none")
