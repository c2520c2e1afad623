"""All editing methods. A new one is a file with a CARD, and a row here.

Method modules import torch inside their functions only, so that listing the methods takes no time.
"""

from sfumato.errors import OptionError
from sfumato.methods.base import MethodCard
from sfumato.methods.sampling.blended_diffusion import CARD as BLENDED_DIFFUSION
from sfumato.methods.sampling.blended_latent_diffusion import CARD as BLENDED_LATENT_DIFFUSION
from sfumato.methods.sampling.lanpaint import CARD as LANPAINT
from sfumato.methods.sampling.repaint import CARD as REPAINT

CARDS: tuple[MethodCard, ...] = (BLENDED_LATENT_DIFFUSION, BLENDED_DIFFUSION, REPAINT, LANPAINT)


def method_options() -> set[str]:
    """Fields of EditRequest that some methods understand and others do not."""
    return {option for card in CARDS for option in card.options}


def get(name: str) -> MethodCard:
    """Card of a method.

    Raises:
        OptionError: method-unknown.
    """
    for card in CARDS:
        if card.name == name:
            return card
    allowed = ", ".join(card.name for card in CARDS)
    raise OptionError(f"Unknown method '{name}': choose one of {allowed}.", code="method-unknown")
