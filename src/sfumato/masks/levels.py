"""Interpretation of a mask picture: whether brightness, colour or transparency marks the edit, and the threshold.

The table for users is in docs/guide.md. White = edit from here on.
"""

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import MaskError
from sfumato.masks import painted
from sfumato.pictures.reading import Picture

Mode = Literal["auto", "grey", "alpha", "paint"]
Values = NDArray[np.uint8]

HALF = 127  # values above are edited
BLACK = 8  # values of a soft mask below this are black: compression leaves such in what was painted black
FAINT = 32  # values up to this are taken for traces of compression when the note says what of a mask is kept
RINGING = 0.35  # of the strongest colour: what compression leaves around it is weaker
OVERSHOOT = 0.1  # of what is marked: if less is above half, it is compression's doing
CONTRAST = 16  # two values nearer than this are noise, unless there are no others
NEAR_WHITE = "paint white what is to change"
CHOOSE = (
    "choose the mask mode alpha to change what is transparent, paint to change what is opaque, or grey to change what is bright"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Levels:
    """Mask strength of each pixel.

    Args:
        values: (H, W) uint8; of a hard mask, what is above 127 is edited.
        hint: What was found and what to do, if nothing is marked.
        notes: What was guessed or converted.
    """

    values: Values
    hint: str = NEAR_WHITE
    notes: tuple[str, ...] = ()


def levels_of(mask: Picture, source: Picture, mode: Mode, soft: bool) -> Levels:
    """Read a mask's picture.

    Args:
        mask: The mask, of the source's size.
        source: The picture to edit: a mask that is a copy of it with a hole is recognised by its colours.
        mode: How to read it. Auto decides by the content.
        soft: Whether greys say how much may change, so that they are not stretched.

    Raises:
        MaskError: mask-no-alpha or mask-ambiguous.
    """
    alpha = mask.alpha
    if mode in ("alpha", "paint") and alpha is None:
        raise MaskError(
            f"The mask has no transparency to read (pixel mode {mask.mode}); use the mask mode grey or auto.",
            code="mask-no-alpha",
        )
    notes: tuple[str, ...] = ()
    if mode == "auto" and alpha is not None and alpha.min() != alpha.max():
        mode, note = _meaning_of_transparency(mask, alpha, source)
        notes = (note,)
    if alpha is not None and mode == "alpha":
        hint = f"its most transparent place has alpha {alpha.min()} of 255; the mask mode grey reads brightness instead"
        found = Levels(values=255 - alpha, hint=hint, notes=notes)
    elif alpha is not None and mode == "paint":
        found = Levels(values=alpha, hint="nothing of it is opaque; the mask mode alpha edits what is transparent", notes=notes)
    else:
        found = _bright(mask, mode == "auto", soft)
    return found if found.values.max() == found.values.min() else _stretched(found, soft)


def _meaning_of_transparency(mask: Picture, alpha: Values, source: Picture) -> tuple[Mode, str]:
    """Whether what is transparent ("alpha") or what is opaque ("paint") is to change, and the note that says so.

    A picture with a hole in it, as for OpenAI's edits, is opaque for the most part and along its border, or holds the source's
    colours. A layer with brush strokes is transparent for the most part and along its border, and the strokes have few colours.
    """
    opaque = alpha > alpha.max() // 2
    most, around = bool(opaque.mean() > 0.5), float(painted.along_border(opaque).mean())
    colours = painted.colours(mask.rgb, opaque)
    hole = (
        "The mask was read by its transparency: what is transparent is edited. If the opaque is meant, use the mask mode paint."
    )
    strokes = (
        "The mask was read as brush strokes on a transparent layer: what is opaque is edited. "
        "If the transparent is meant, use the mask mode alpha."
    )
    copied = len(colours) != 1 and painted.alike(mask.rgb, source.rgb, opaque)
    if copied or (not colours and most):
        return "alpha", hole
    dark = [colour for colour in colours if max(colour) <= FAINT]
    if colours and len(dark) == len(colours) and (most or around > 0.1):  # black and opaque both mean: keep
        return "alpha", hole
    if not colours or dark:
        found = "many colours" if not colours else "black"
        raise MaskError(
            f"The mask has {found} on a transparent ground, which could mark what is to change or what is to stay; {CHOOSE}.",
            code="mask-ambiguous",
        )
    if most and around > 0.5:
        return "alpha", hole
    if not most and around <= 0.5:
        return "paint", strokes
    raise MaskError(
        f"Whether what is opaque or what is transparent in the mask is to change cannot be told; {CHOOSE}.", code="mask-ambiguous"
    )


def _bright(mask: Picture, by_colour: bool, soft: bool) -> Levels:
    """Its brightness; of colours on black, if asked for, their strongest channel."""
    plain = mask.mode[0] in "1LIF" and mask.mode != "LAB"  # three equal channels
    grey = mask.rgb[..., 0].copy() if plain else np.asarray(Image.fromarray(mask.rgb).convert("L"))
    hint = f"its brightest value is {grey.max()} of 255; {NEAR_WHITE}"
    notes: tuple[str, ...] = ()
    if mask.alpha is not None:
        hint += "; it has transparency, which the mask mode alpha reads (transparent = edit)"
        if mask.alpha.max() < 255 and mask.alpha.min() == mask.alpha.max():
            notes = (f"All of the mask has alpha {mask.alpha.max()}, so it was read by the brightness of its colours.",)
    found = Levels(values=grey, hint=hint, notes=notes)
    if plain or not painted.saturated(mask.rgb).any():
        return found
    if not by_colour:
        return _with_note(
            found, found.values, "The mask has colours; they were read by their brightness, as the mask mode grey does."
        )
    return _coloured(mask, found, soft)


def _coloured(mask: Picture, bright: Levels, soft: bool) -> Levels:
    """Levels of a mask that has colours: what is not black is marked, whatever its colour.

    Raises:
        MaskError: mask-ambiguous: the colours are on another ground than black.
    """
    colours = painted.colours(mask.rgb, np.ones(mask.rgb.shape[:2], np.bool_))
    if not colours:
        note = "The mask has the colours of a picture; it was read by its brightness: what is brighter than half is edited."
        return _with_note(bright, bright.values, note)
    strength = painted.strongest(mask.rgb)
    traces = max(FAINT, RINGING * int(strength.max()) if mask.format == "JPEG" else 0)
    marks = [colour for colour in colours if max(colour) > traces]
    vivid = [colour for colour in marks if painted.saturated(np.array([[colour]], np.uint8)).any()]
    if not vivid:  # thin strokes have no even areas
        vivid = marks = painted.colour_of_strokes(mask.rgb, FAINT)
    if not vivid:
        return bright
    names = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in vivid[:4]) + (" and others" if len(vivid) > 4 else "")
    ground = colours[0]
    if (max(ground) > FAINT and (strength <= FAINT).mean() < 0.01) or min(ground) > 255 - FAINT:
        raise MaskError(
            f"The mask has colours ({names}) on a ground that is not black, so what is to change cannot be told: "
            "paint it white on black, or choose the mask mode grey to change what is brighter than half.",
            code="mask-ambiguous",
        )
    if soft:
        return _with_note(bright, strength, f"The mask has colours ({names}); each was read by its strongest channel.")
    # Half the weakest colour becomes half: what is weaker is an edge or a trace of compression.
    weakest = min(max(colour) for colour in marks)
    values = np.minimum(np.arange(256) * 255 // weakest, 255).astype(np.uint8)[strength]
    return _with_note(bright, values, f"The mask has colours ({names}); all that is not black is edited.")


def _stretched(found: Levels, soft: bool) -> Levels:
    """With black and white in place of two greys that lie on one side of half, and a word on greys that are kept."""
    values = found.values
    present = np.flatnonzero(painted.histogram(values))
    low, high = int(present[0]), int(present[-1])
    if soft:
        if high > 1:
            return found
        return _with_note(found, values * np.uint8(255), "The mask has the values 0 and 1 only; 1 was read as white.")
    above = int((values > HALF).sum())
    if low <= HALF and above >= OVERSHOOT * int((values > high // 4).sum()):
        return _with_kept(found, values > HALF)
    if len(present) == 2:
        note = f"The mask has the values {low} and {high} of 255 only; {high} was read as white."
        return _with_note(found, np.where(values == high, np.uint8(255), np.uint8(0)), note)
    if not above and low == 0 and painted.is_label_map(values, present):
        shown = ", ".join(str(value) for value in present[1:])
        note = f"The mask has the values {shown} of 255 on black, as maps of labels have; all of them were read as white."
        return _with_note(found, np.where(values > 0, np.uint8(255), np.uint8(0)), note)
    return _cut_between(found, *(painted.two_greys(values) or painted.greys_of_strokes(values) or (0, 0)))


def _cut_between(found: Levels, dark: int, light: int) -> Levels:
    """Cut half way between two greys, if they are two."""
    values = found.values
    if light - dark < CONTRAST:
        return _with_kept(found, values > HALF)
    note = f"The mask has no black and white: grey {light} of 255 was read as white and grey {dark} as black."
    white = values > (dark + light) // 2
    return _with_kept(_with_note(found, np.where(white, np.uint8(255), np.uint8(0)), note), white, values)


def _with_kept(found: Levels, marked: NDArray[np.bool_], greys: Values | None = None) -> Levels:
    """Adds a note if whole areas of grey are kept because they are not bright enough."""
    greys = found.values if greys is None else greys
    darkest = int(greys.min())
    kept = ~marked & (greys > max(FAINT, darkest + FAINT))
    if not kept.any():
        return found
    near = cv2.dilate(marked.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    areas = kept & (painted.flat(greys, 0) | ~near)
    if not areas.any():
        return found
    brightest = int(greys[areas].max())
    note = (
        f"{int(kept.sum())} pixels of the mask are grey, up to {brightest} of 255, which is not bright enough: they are kept. "
        "A soft mask would change them in part."
    )
    return _with_note(found, found.values, note)


def _with_note(found: Levels, values: Values, note: str) -> Levels:
    return replace(found, values=values, notes=(*found.notes, note))
