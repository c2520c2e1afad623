"""Plots as inline SVG: bars and scatter points with confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8a8a", "#b8a900")  # Okabe and Ito, less black
HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 220, 14, 38, 46, 12
BAR, GAP, LETTER = 22, 16, 6


@dataclass(frozen=True)
class Value:
    """A number with its interval."""

    value: float
    low: float
    high: float


def colour(index: int) -> str:
    """Colour of a series in all plots."""
    return COLOURS[index % len(COLOURS)]


def bars(
    groups: Sequence[str], series: Sequence[tuple[str, Sequence[Value | None]]], title: str, line: float | None = None
) -> str:
    """One group of bars per name in `groups`, one bar per series.

    Args:
        groups: Names below the groups.
        series: Label, and one value per group (None leaves the bar out).
        title: Of the plot, for readers and screen readers.
        line: Draw a dashed line at this value.
    """
    top = _ceiling([v for _, values in series for v in values if v is not None], line)
    groups_wide = [max(len(series) * BAR, LETTER * len(name)) + GAP for name in groups]
    width = LEFT + sum(groups_wide) + RIGHT
    parts = [*_frame(width, title), *_y_axis(0, top, width)]
    for g, name in enumerate(groups):
        middle = LEFT + sum(groups_wide[:g]) + groups_wide[g] / 2
        parts.append(_text(middle, HEIGHT - BOTTOM + 16, name, "middle"))
        for s, (label, values) in enumerate(series):
            value = values[g]
            if value is None:
                continue
            x = middle - len(series) * BAR / 2 + s * BAR + 2
            y = _y(value.value, 0, top)
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{BAR - 4}" height="{HEIGHT - BOTTOM - y:.1f}" fill="{colour(s)}">'
                f"<title>{escape(label)}, {escape(name)}: {value.value:.3g} [{value.low:.3g}, {value.high:.3g}]</title></rect>"
            )
            parts.append(_whisker(x + BAR / 2 - 2, _y(value.low, 0, top), _y(value.high, 0, top)))
    if line is not None:
        y = _y(line, 0, top)
        parts.append(f'<path class="dash" d="M{LEFT} {y:.1f}H{width - RIGHT}"/>')
    return "".join([*parts, "</svg>"])


def scatter(points: Sequence[tuple[str, Value, Value]], title: str, x_name: str, y_name: str, *, named: bool = False) -> str:
    """Points with intervals: label, x, y; with a key to the labels on the right if `named`. Both axes begin at 0."""
    plane = 460
    width = plane + (LETTER * max(map(len, (label for label, _, _ in points)), default=0) + GAP if named else 0)
    x_top = _ceiling([x for _, x, _ in points], None)
    y_top = _ceiling([y for _, _, y in points], None)
    parts = [*_frame(width, title), *_y_axis(0, y_top, plane)]

    def across(value: float) -> float:
        return LEFT + value / x_top * (plane - LEFT - RIGHT)

    ticks = [x_top * i / 4 for i in range(5)]
    parts += [_text(across(tick), HEIGHT - BOTTOM + 14, f"{tick:.3g}", "middle") for tick in ticks]
    parts.append(_text(plane - RIGHT, HEIGHT - 5, x_name, "end"))
    parts.append(_text(LEFT + 4, TOP - 3, y_name, "start"))
    for i, (label, x, y) in enumerate(points):
        cx, cy = across(x.value), _y(y.value, 0, y_top)
        parts.append(_whisker(cx, _y(y.low, 0, y_top), _y(y.high, 0, y_top)))
        parts.append(f'<path class="line" d="M{across(x.low):.1f} {cy:.1f}H{across(x.high):.1f}"/>')
        parts.append(
            f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="6" fill="{colour(i)}">'
            f"<title>{escape(label)}: {x.value:.3g} {escape(x_name)}, {y.value:.3g}</title></circle>"
        )
        if named:
            row = TOP + 6 + 18 * i
            parts.append(f'<rect x="{plane}" y="{row - 4}" width="9" height="9" fill="{colour(i)}"/>')
            parts.append(_text(plane + 14, row + 4, label, "start"))
    return "".join([*parts, "</svg>"])


def legend(labels: Sequence[str]) -> str:
    """Which colour is which series."""
    keys = [f'<span class="key"><i style="background:{colour(i)}"></i>{escape(label)}</span>' for i, label in enumerate(labels)]
    return f'<p class="legend">{"".join(keys)}</p>'


def standalone(plot: str, title: str) -> str:
    """A plot as a file of its own, on white, with its title below."""
    style = (
        "svg{font:11px system-ui,sans-serif;background:#fff}.grid{stroke:#d5d5d5}"
        ".line{stroke:#1a1a1a;fill:none;stroke-width:1.3}.dash{stroke:#6a6a6a;stroke-dasharray:5 4}"
    )
    head = '<svg xmlns="http://www.w3.org/2000/svg" '
    body = plot.removeprefix("<svg ").removesuffix("</svg>")
    return f"{head}{body}<style>{style}</style>{_text(LEFT, HEIGHT - 5, title, 'start')}</svg>\n"


def _frame(width: float, title: str) -> list[str]:
    return [
        f'<svg viewBox="0 0 {width:.0f} {HEIGHT}" width="{width:.0f}" height="{HEIGHT}" role="img" aria-label="{escape(title)}">'
    ]


def _y(value: float, bottom: float, top: float) -> float:
    share = (value - bottom) / (top - bottom)
    return HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - BOTTOM - TOP)


def _y_axis(bottom: float, top: float, width: float) -> list[str]:
    parts = []
    for i in range(5):
        value = bottom + (top - bottom) * i / 4
        y = _y(value, bottom, top)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{width - RIGHT:.0f}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:.3g}", "end"))
    return parts


def _whisker(x: float, low: float, high: float) -> str:
    return f'<path class="line" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ceiling(values: Sequence[Value], line: float | None) -> float:
    """A round number above everything that is drawn."""
    highest = max([*(value.high for value in values), line or 0.0, 1e-6])
    scale = 10.0 ** int(f"{highest:e}".partition("e")[2])
    return next(
        step * scale for step in (1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0) if step * scale >= highest * (1 - 1e-9)
    )
