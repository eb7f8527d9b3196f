r"""FactorVAE: a second network tells codes from codes whose dimensions were exchanged, and the code learns to leave it guessing.

.. math:: L = -E_{q(z|x)} \log p(x|z) + \mathrm{KL}(q(z|x) \| p(z)) + \gamma \, E_{q(z)} \log \frac{D(z)}{1 - D(z)}

where D says how likely a code is to come from :math:`q(z)` rather than from the product of its dimensions' distributions, so that
the last term is the total correlation when D is right. D learns from the codes z of a batch and from :math:`\tilde z`, in which
every dimension was exchanged among the images by a permutation of its own,

.. math:: L_D = -\tfrac12 E_{q(z)} \log D(z) - \tfrac12 E_{\tilde z} \log (1 - D(\tilde z))

Both are descended in one step: the autoencoder's gradient passes D but does not move it, and D's own stops at the codes. As Adam
moves every number by its own gradient, this is a step of two optimisers at once, of the Trainer's rate. Where the authors
differ: D's step comes after the other's, on another batch (one batch serves both in Locatello et al.'s code, as here), and D's
Adam has the rate 1e-4 and the betas .5 and .9. D gives one logit; their two matter by their difference alone.

References:
    Disentangling by Factorising (Kim and Mnih, 2018), eq. 2 and 3 and algorithms 1 and 2, https://arxiv.org/abs/1802.05983
"""

from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from workbench.core import Embedding, Views
from workbench.distributed import from_first, gather, rank
from workbench.objectives.base import in_full_precision, positive
from workbench.objectives.variational import Variational

__all__ = ["FactorVAE"]


class FactorVAE(Variational):
    """FactorVAE, one view an image, for an :class:`Autoencoder` with a gaussian code.

    Arguments:
        gamma: Weight of the total correlation, above 0; papers try 5 to 150 on images of 64 pixels.
        width, depth: Of the discriminator: hidden layers of ``width``, ``depth`` of them, with leaky ReLUs of slope .2.
        pixel_std: As of :class:`BetaVAE`.

    Terms: ``loss``, the autoencoder's; ``reconstruction``, ``kl`` and ``tc`` in nats an image; ``discriminator``, its loss, log 2
    where it guesses. That one is descended too, but adds nothing to the value of ``loss``.
    """

    def __init__(self, *, gamma: float = 10.0, width: int = 1000, depth: int = 6, pixel_std: float | None = None) -> None:
        super().__init__(pixel_std=pixel_std)
        self.gamma, self.width, self.depth = positive("gamma", gamma), positive("width", width), positive("depth", depth)
        self.register_module("discriminator", None)

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        super().begin(model, sample)
        widths = [sample.z.shape[1], *[self.width] * self.depth]
        hidden = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        self.discriminator = nn.Sequential(*hidden, nn.Linear(self.width, 1))
        self.discriminator.to(sample.z.device, torch.promote_types(sample.z.dtype, torch.float32))

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        discriminator = self.begun(self.discriminator)
        seen = self.see(model, views)
        still = {name: p.detach() for name, p in discriminator.named_parameters()}
        tc = mean_logit(functional_call(discriminator, still, (seen.z,)))
        z = seen.z.detach()
        exchanged = permuted(gather(z))[rank() * len(z) : (rank() + 1) * len(z)]
        own = guessing(discriminator(z), discriminator(exchanged))
        loss = seen.reconstruction + seen.kl + self.gamma * tc
        terms = {"reconstruction": seen.reconstruction, "kl": seen.kl, "tc": tc, "discriminator": own}
        return {"loss": loss + (own - own.detach()), **terms}


def permuted(z: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Returns codes of which every dimension was exchanged among the images by itself, alike on all processes."""
    return z.gather(0, chances(z).argsort(0))


def chances(z: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Returns uniform random numbers, the same on all processes; their order is the permutation."""
    return from_first(torch.rand(z.shape, device=z.device))


@in_full_precision
def mean_logit(logits: Float[Tensor, "b one"]) -> Float[Tensor, ""]:
    """The mean of log D / (1 - D), which the logit is."""
    return logits.mean()


@in_full_precision
def guessing(of_codes: Float[Tensor, "b one"], of_exchanged: Float[Tensor, "b one"]) -> Float[Tensor, ""]:
    """The discriminator's cross-entropy, from its logits: log 2 where it guesses."""
    return (F.softplus(-of_codes).mean() + F.softplus(of_exchanged).mean()) / 2
