"""Parser of prompt weights in the syntax of AUTOMATIC1111's Stable Diffusion web UI. Pure text.

`(x)` weighs x by 1.1, `[x]` by 1 / 1.1, `(x:1.3)` by 1.3; nested brackets multiply; a bracket that is never closed reaches to the
end. A backslash before a bracket or a backslash makes it plain. BREAK, in capitals, begins a new part of the prompt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

UP, DOWN = 1.1, 1 / 1.1
MOST_OPEN = 50  # brackets within brackets; what opens deeper is plain text
_DECIMAL = r"[-+]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})"  # of few digits, so that no text takes long to read
_PIECE = re.compile(
    rf"""
    \\(?P<plain>[()\[\]\\])
    | (?P<open>[(\[])
    | :\s*(?P<number>{_DECIMAL})\s*\)
    | (?P<close>[)\]])
    | (?P<part>\bBREAK\b)
    """,
    re.VERBOSE,
)
_TAG = re.compile(r"<\w+:[^<>]+>")
_NUMBER = re.compile(rf"\s*{_DECIMAL}\s*")


@dataclass(frozen=True)
class Span:
    """Words that have one weight; 1 is as they are."""

    text: str
    weight: float = 1.0


@dataclass
class _Item:
    text: str
    weight: float = 1.0
    part: bool = False  # BREAK


def parse(text: str) -> list[list[Span]]:
    """Parts of a prompt, which BREAK separates, each a list of spans; one span, the text itself, if no character is special.

    Neighbours of one weight are one span. Empty parts are left out, but there is always one.
    """
    items: list[_Item] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where the brackets that are still open began
    position, after_break = 0, False
    for match in _PIECE.finditer(text):
        between = text[position : match.start()]
        between = between.rstrip() if match["part"] else between
        items.append(_Item(between.lstrip() if after_break else between))
        position, after_break = match.end(), bool(match["part"])
        _take(match, items, opened)
    items.append(_Item(text[position:].lstrip() if after_break else text[position:]))
    for bracket, starts in opened.items():
        for start in starts:
            _weigh(items[start:], UP if bracket == "(" else DOWN)
    return _parts(items)


def _take(match: re.Match[str], items: list[_Item], opened: dict[str, list[int]]) -> None:
    """One special piece; a bracket that closes none is plain text."""
    if match["part"]:
        items.append(_Item("", part=True))
    elif match["open"] and len(opened[match["open"]]) < MOST_OPEN:
        opened[match["open"]].append(len(items))
    elif match["open"]:
        items.append(_Item(match[0]))
    elif match["plain"]:
        items.append(_Item(match["plain"]))
    else:
        bracket = "[" if match["close"] == "]" else "("
        if not opened[bracket]:
            items.append(_Item(match[0]))
            return
        usual = UP if bracket == "(" else DOWN
        _weigh(items[opened[bracket].pop() :], float(match["number"]) if match["number"] else usual)


def _weigh(items: Sequence[_Item], factor: float) -> None:
    for item in items:
        item.weight *= factor


def _parts(items: list[_Item]) -> list[list[Span]]:
    parts: list[list[Span]] = [[]]
    for item in items:
        if item.part:
            parts.append([])
        elif item.text:
            last = parts[-1].pop() if parts[-1] else Span("", item.weight)
            if last.weight == item.weight:
                parts[-1].append(Span(last.text + item.text, item.weight))
            else:
                parts[-1] += [last, Span(item.text, item.weight)]
    return [part for part in parts if part] or [[Span("")]]


def words(parts: list[list[Span]]) -> str:
    """The words alone, without brackets and weights: what a CLIP that ranks or guides reads."""
    return " ".join("".join(span.text for span in part) for part in parts)


def number(text: str) -> float | None:
    """A decimal number, or None."""
    return float(text) if _NUMBER.fullmatch(text) else None


def has_bare_brackets(text: str) -> bool:
    """Whether a bracket weighs without a number, as `(x)` does, which elsewhere is plain English."""
    pieces = list(_PIECE.finditer(text))
    return sum(bool(piece["open"]) for piece in pieces) > sum(bool(piece["number"]) for piece in pieces)


def take_tags(text: str) -> tuple[str, list[str]]:
    """The text without tags such as `<lora:name:0.8>`, and the tags; `<word>` without a colon is none."""
    tags = _TAG.findall(text)
    return (_TAG.sub("", text).strip(), tags) if tags else (text, [])


def settle(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Replace what changes during the steps by words that hold throughout.

    `[from:to:when]` becomes `to`, or `from` if `to` is empty; `[to:when]` becomes `to`; `[a|b]` becomes `a, b`. Brackets with
    neither a bar nor a number at the end are weights, and stay.

    Returns:
        The text, and for each bracket that was replaced what was written and what is read.
    """
    levels: list[list[str]] = [[]]  # pieces of the text, and of each bracket that is open
    found: list[tuple[str, str]] = []
    for piece in re.findall(r"\\.|.", text, re.DOTALL):
        if piece == "[" and len(levels) <= MOST_OPEN:
            levels.append([])
        elif piece == "]" and len(levels) > 1:
            inner = levels.pop()
            held = _held(inner)
            written = f"[{''.join(inner)}]"
            found += [] if held is None else [(written, held)]
            levels[-1].append(written if held is None else held)
        else:
            levels[-1].append(piece)
    return "[".join("".join(level) for level in levels), found


def _held(pieces: list[str]) -> str | None:
    """The words that stand for a bracket that changes during the steps; None if it is another kind of bracket."""
    choices, times = _split(pieces, "|"), _split(pieces, ":")
    if len(choices) > 1:
        return ", ".join(choice.strip() for choice in choices if choice.strip())
    if len(times) not in (2, 3) or number(times[-1]) is None:
        return None
    return next((text for text in times[-2::-1] if text.strip()), "")


def _split(pieces: list[str], mark: str) -> list[str]:
    """Split at marks outside round brackets."""
    parts: list[list[str]] = [[]]
    depth = 0
    for piece in pieces:
        depth += {"(": 1, ")": -1}.get(piece, 0)
        if piece == mark and depth == 0:
            parts.append([])
        else:
            parts[-1].append(piece)
    return ["".join(part) for part in parts]
