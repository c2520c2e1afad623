"""Named suites, the ablations of the paper: the tasks and the variants to compare."""

from dataclasses import dataclass

from sfumato.backbones.capabilities import TRAINED
from sfumato.backbones.families import FAMILIES, FamilyCard
from sfumato.backbones.hub import EMBEDDED, ships
from sfumato.background.registry import BACKGROUNDS
from sfumato.errors import OptionError
from sfumato.methods import registry
from sfumato.methods.base import MethodCard

ALL = "all"


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


def of_methods(names: str, model: str) -> tuple[str, ...]:
    """Variants of several methods, as texts that `variants.parse` reads.

    Args:
        names: Methods, separated by commas; `ALL` are those that the models which ship can run.
        model: What they run on; in place of one that ships, the first of those that can run the method.

    Raises:
        OptionError: method-unknown; option-contradiction for `ALL` on a model that does not ship.
    """
    if names != ALL:
        cards = [registry.get(name.strip()) for name in names.split(",")]
    elif model in EMBEDDED:
        cards = [card for card in registry.CARDS if _home(card, model) is not None]
    else:
        raise OptionError(
            f"--methods {ALL} is for the models that ship; for '{model}' name its methods, such as --methods "
            f"{registry.CARDS[0].name},{registry.CARDS[2].name}.",
            code="option-contradiction",
        )
    return tuple(f"{card.name}:model={_home(card, model) or model}" for card in cards)


def _home(card: MethodCard, model: str) -> str | None:
    """The model to run a method on, where all that it needs ships; `model` before others."""
    if model not in EMBEDDED:
        return None
    families = sorted((family for family in FAMILIES if family.name in EMBEDDED), key=lambda family: family.name != model)
    return next((family.name for family in families if _runs(card, family)), None)


def _runs(card: MethodCard, family: FamilyCard) -> bool:
    """Whether a family's model that ships can run a method, with weights that ship."""
    trained = family.models.get(card.name) or family.branches.get(card.name)
    needed = (family.name, trained) if card.needs & TRAINED else (family.name,)
    return family.can(*card.needs - TRAINED) and all(name is not None and ships(name) for name in needed)
