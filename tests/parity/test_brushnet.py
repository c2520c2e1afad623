"""BrushNet's branch and what it adds, against the published arithmetic walked by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Control, Extra, Text
from sfumato.backbones.branches import adding
from tests.parity.brushnet_reference import Weights, added_base, branch_residuals, time_embedding
from tests.tiny_branches import base_unet, brushnet
from tests.tiny_models import TEXT_WIDTH, seeded

BATCH = 2
TIMESTEP = torch.tensor(500.0)


class Case:
    """A base of Stable Diffusion's kind with its branch, and inputs of one call."""

    def __init__(self, *, xl: bool, size: tuple[int, int]) -> None:
        self.base = base_unet(xl=xl)
        self.branch = brushnet(self.base)
        with seeded(13):
            self.x, self.image = torch.randn(BATCH, 4, *size), torch.randn(BATCH, 5, *size)
            self.states, pooled = torch.randn(BATCH, 7, TEXT_WIDTH), torch.randn(BATCH, TEXT_WIDTH)
            sizes = torch.randint(0, 64, (BATCH, 6)).float()
        text = Text(states=self.states, pooled=pooled if xl else None)
        self.given = Conditions(text=text, extras={Extra.TIME_IDS: sizes} if xl else {})
        self.added = {"time_ids": sizes, "text_embeds": pooled} if xl else None

    def ours(self, scale: float, guess: bool = False) -> Tensor:
        control = Control(image=self.image, scale=torch.full((BATCH,), scale), guess=guess)
        residuals = self.branch(self.x, TIMESTEP, self.given, control)
        with adding(self.base, [residuals]) as further:
            return self.alone(**further)

    def alone(self, **further: Any) -> Tensor:
        return self.base(self.x, TIMESTEP, self.states, added_cond_kwargs=self.added, **further).sample

    def published(self, scales: Tensor) -> Tensor:
        names = self.branch.published_names()
        weights = Weights({names[own]: tensor for own, tensor in self.branch.state_dict().items()}, groups=4)
        # the branch's own embeddings: they are in the checkpoint too
        embedding = time_embedding(self.branch.unet, TIMESTEP, self.x, self.added)
        residuals = branch_residuals(weights, torch.cat([self.x, self.image], dim=1), embedding, scales)
        embedding = time_embedding(self.base, TIMESTEP, self.x, self.added)
        return added_base(self.base, self.x, embedding, self.states, residuals)


@pytest.fixture(params=[(False, (16, 16)), (False, (20, 28)), (True, (16, 24)), (True, (10, 14))], ids=str)
def case(request: Any) -> Case:
    xl, size = request.param
    return Case(xl=xl, size=size)


def count(case: Case) -> int:
    return 21 if case.added else 28


@pytest.mark.usefixtures("no_gradients")
def test_as_published(case: Case) -> None:
    expected = case.published(torch.full((count(case),), 0.7))
    assert (expected - case.alone()).abs().max() > 1e-2  # or nothing is compared
    torch.testing.assert_close(case.ours(0.7), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("no_gradients")
def test_guess_mode(case: Case) -> None:
    expected = case.published(0.9 * torch.logspace(-1, 0, count(case)))
    torch.testing.assert_close(case.ours(0.9, guess=True), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("no_gradients")
def test_first_skip_connection_is_the_bases_own(case: Case) -> None:
    """A large first residual goes into the stream, and not into skip 0: with others the difference would hide in rounding."""
    for k, convolution in enumerate(case.branch.convolutions):
        convolution.weight.zero_()
        convolution.bias.zero_()
        if k == 0:
            convolution.bias.copy_(20 * torch.linspace(-1, 1, len(convolution.bias)))
    expected = case.published(torch.ones(count(case)))
    torch.testing.assert_close(case.ours(1.0), expected, rtol=1e-5, atol=1e-5)
    # in the skip connection as well, as a ControlNet's is
    case.base.conv_in.bias.add_(case.branch.convolutions[0].bias)
    assert (case.alone() - expected).abs().max() > 0.05
