r"""AdaGVAE and AdaMLVAE: of two images that share some factors, let the code share some dimensions.

Of a pair, dimension i is taken to be shared where the divergence between its two distributions is small for this pair,

.. math:: \delta_i = \mathrm{KL}(q(z_i|x_1) \| q(z_i|x_2)) < \tau, \qquad \tau = \tfrac12 (\max_i \delta_i + \min_i \delta_i)

and both images then have one distribution there: of the mean of the means and of the variances (GVAE), or the normalised square
root of the product of the two densities (ML-VAE), in which the surer one counts for more,

.. math:: \frac{1}{\sigma^2} = \tfrac12 \Big(\frac{1}{\sigma_1^2} + \frac{1}{\sigma_2^2}\Big), \qquad
    \frac{\mu}{\sigma^2} = \tfrac12 \Big(\frac{\mu_1}{\sigma_1^2} + \frac{\mu_2}{\sigma_2^2}\Big)

With these distributions in place the loss is that of beta-VAE, averaged over the two images. Nobody says which factors are
shared, nor how many. Two distributions alike in all dimensions share none by this rule, which then changes nothing.

References:
    Weakly-Supervised Disentanglement Without Compromises (Locatello et al., 2020), section 4, https://arxiv.org/abs/2002.02886,
    and their code for the two means, https://github.com/google-research/disentanglement_lib
"""

import math
from typing import Literal

import torch
import torch.nn as nn
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.core import Views
from workbench.objectives.base import in_full_precision, one_of, two_views
from workbench.objectives.variational import Variational, drawn, kl_to_prior, weight

__all__ = ["AdaVAE"]


class AdaVAE(Variational):
    """AdaGVAE, or with ``average="mlvae"`` AdaMLVAE, for an :class:`Autoencoder` with a gaussian code.

    Its two views are images that share some factors, as :class:`FactorPairs` makes them.

    Arguments:
        beta: Weight of the divergence from the prior, at least 0.
        average: How two distributions become one: ``"gvae"`` or ``"mlvae"``.
        pixel_std: As of :class:`BetaVAE`.

    Terms: ``loss``, ``reconstruction`` and ``kl``, in nats an image; ``shared``, the mean share of dimensions, from 0 to 1.
    """

    takes = 2

    def __init__(self, *, beta: float = 6.0, average: Literal["gvae", "mlvae"] = "gvae", pixel_std: float | None = None) -> None:
        super().__init__(pixel_std=pixel_std)
        self.beta, self.average = weight("beta", beta), one_of("average", average, ("gvae", "mlvae"))

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        images = two_views(views, "AdaVAE")
        both = [self.distribution(model, x) for x in images]
        same = shared(*both[0], *both[1])
        common = averaged(*both[0], *both[1], how=self.average)
        kl = reconstruction = 0
        for x, own in zip(images, both, strict=True):
            mean, log_variance = (torch.where(same, one, each) for one, each in zip(common, own, strict=True))
            reconstruction = reconstruction + self.reconstruction(model, drawn(mean, log_variance), x) / 2
            kl = kl + kl_to_prior(mean, log_variance) / 2
        terms = {"reconstruction": reconstruction, "kl": kl, "shared": same.to(kl.dtype).mean()}
        return {"loss": reconstruction + self.beta * kl, **terms}


@in_full_precision
def shared(
    mean1: Float[Tensor, "b k"], log1: Float[Tensor, "b k"], mean2: Float[Tensor, "b k"], log2: Float[Tensor, "b k"]
) -> Bool[Tensor, "b k"]:
    """Returns which dimensions a pair shares, from means and logarithms of variances; no gradient passes the choice."""
    apart = ((log1 - log2).exp() + (mean1 - mean2).square() * (-log2).exp() - 1 + log2 - log1) / 2
    least, most = apart.aminmax(dim=1, keepdim=True)
    return apart < (least + most) / 2


def averaged(mean1: Tensor, log1: Tensor, mean2: Tensor, log2: Tensor, *, how: str) -> tuple[Tensor, Tensor]:
    """Returns the mean and the logarithm of the variance of one distribution for two, in every dimension."""
    return _averaged(mean1, log1, mean2, log2, how=how).unbind()


@in_full_precision
def _averaged(mean1: Tensor, log1: Tensor, mean2: Tensor, log2: Tensor, *, how: str) -> Float[Tensor, "two b k"]:
    if how == "gvae":
        return torch.stack([(mean1 + mean2) / 2, torch.logaddexp(log1, log2) - math.log(2)])
    sure1 = torch.sigmoid(log2 - log1)  # the first's share of the precision
    precision = torch.logaddexp(-log1, -log2) - math.log(2)
    return torch.stack([sure1 * mean1 + (1 - sure1) * mean2, -precision])
