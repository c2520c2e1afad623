"""Named suites, the ablations of the paper: the tasks and the variants to compare."""

from dataclasses import dataclass

from sfumato.background.registry import BACKGROUNDS
from sfumato.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One ablation.

    Args:
        tasks: On which tasks it is run.
        variants: As texts that `variants.parse` reads; the first is what the others are compared with.
        about: What it measures.
    """

    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    about: str


SUITES: dict[str, Suite] = {
    "background": Suite(
        tasks=("replace", "add"),
        variants=tuple(f"{name}:background={name},n=1" for name in BACKGROUNDS),
        about="Each way of restoring what surrounds the mask.",
    ),
    "shrinking": Suite(
        tasks=("thin",),
        variants=("without:shrink=off", "with:shrink=on"),
        about="Progressive mask shrinking on thin masks.",
    ),
    "ranking": Suite(
        tasks=("replace", "add"),
        variants=tuple(f"n={n}" for n in (1, 4, 16)),
        about="The first-ranked of 1, 4 and 16 predictions.",
    ),
    "start": Suite(
        tasks=("replace", "recolour", "scribble"),
        variants=tuple(f"start_fraction={share}" for share in (0.1, 0.0, 0.25, 0.4, 0.6)),
        about="How much of the schedule is skipped at the noisy end.",
    ),
    "guidance": Suite(
        tasks=("replace", "add"),
        variants=tuple(f"guidance_scale={scale}" for scale in (1, 3, 6, 9)),
        about="Classifier-free guidance.",
    ),
    "wordless": Suite(
        tasks=("remove_wordless",),
        variants=("remove:task=remove", "fill:task=fill", "nothing:task=fill,start_fraction=0.1"),
        about="Removal without words: as `remove` does it, as `fill` does, and from the start with a model that is told nothing.",
    ),
}


def get(name: str) -> Suite:
    """A suite by its name.

    Raises:
        OptionError: suite-unknown, listing the known ones.
    """
    if name not in SUITES:
        raise OptionError(f"Unknown suite {name!r}: choose one of {', '.join(SUITES)}.", code="suite-unknown")
    return SUITES[name]
