r"""beta-TCVAE: of what a code says, only that its dimensions say together is made dear.

Averaged over images, the divergence from the prior is a sum of three: what a code says of its image, how far its dimensions are
from independent (their total correlation), and how far each by itself is from its prior,

.. math:: E_x \mathrm{KL}(q(z|x) \| p(z)) = I_q(z; x) + \mathrm{KL}\Big(q(z) \,\Big\|\, \prod_j q(z_j)\Big)
    + \sum_j \mathrm{KL}(q(z_j) \| p(z_j)), \qquad q(z) = \frac1N \sum_n q(z|x_n)

and the loss weighs the second by :math:`\beta`, the others by 1 (the paper's :math:`\alpha = \gamma = 1`):

.. math:: L = -E_{q(z|x)} \log p(x|z) + \mathrm{KL}(q(z|x) \| p(z)) + (\beta - 1) \, \mathrm{TC}

:math:`q(z)` is a sum over all N images, of which a batch has M. *Weighted* sampling takes, for the code of image i,

.. math:: \log q(z_i) \approx \log \frac{1}{NM} \sum_{j=1}^{M} q(z_i | x_j)

in which the image's own term is M times too small, and the others' about N times on average.
*Stratified* sampling counts the image itself with 1/N, M - 2 others with 1/(M - 1) each,
and the last with the rest, (N - M + 1) / (N (M - 1)), so that :math:`q(z_i)` is right on average over batches.

References:
    Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018), eq. 2 and appendix C; the loss is
    eq. 5 as https://github.com/google-research/disentanglement_lib counts them, https://arxiv.org/abs/1802.04942
"""

import math
from typing import Any, Literal

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from workbench.core import Views
from workbench.distributed import gather, rank
from workbench.objectives.base import in_full_precision, one_of
from workbench.objectives.variational import Variational, weight

__all__ = ["BetaTCVAE"]


class BetaTCVAE(Variational):
    """beta-TCVAE, one view an image, for an :class:`Autoencoder` with a gaussian code.

    How many images there are is read from their factors, as the Trainer does.

    Arguments:
        beta: Weight of the total correlation, at least 0; papers try 1 to 16 on images of 64 pixels.
        sampling: ``"weighted"``, as Locatello et al.'s code (which leaves out the constant (K - 1) log NM), or ``"stratified"``.
        pixel_std: As of :class:`BetaVAE`.

    Terms: ``loss``, ``reconstruction``, ``kl`` and ``tc``, in nats an image. ``tc`` is an estimate: with weighted sampling of a
    batch far smaller than the data it lies far above 0 even where dimensions are independent, and only its changes mean much.
    """

    def __init__(
        self,
        *,
        beta: float = 4.0,
        sampling: Literal["weighted", "stratified"] = "weighted",
        pixel_std: float | None = None,
    ) -> None:
        super().__init__(pixel_std=pixel_std)
        self.beta, self.sampling = weight("beta", beta), one_of("sampling", sampling, ("weighted", "stratified"))
        self.images: int | None = None

    def read(self, factors: Any) -> None:
        self.images = len(factors)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        if self.images is None:
            raise RuntimeError("BetaTCVAE does not know how many images there are: call objective.read(images.factors) first.")
        seen = self.see(model, views)
        everyone = gather(seen.mean), gather(seen.log_variance)
        first = rank() * len(seen.z)
        tc = total_correlation(seen.z, *everyone, images=self.images, sampling=self.sampling, first=first)
        loss = seen.reconstruction + seen.kl + (self.beta - 1) * tc
        return {"loss": loss, "reconstruction": seen.reconstruction, "kl": seen.kl, "tc": tc}


@in_full_precision
def total_correlation(
    z: Float[Tensor, "n k"],
    mean: Float[Tensor, "m k"],
    log_variance: Float[Tensor, "m k"],
    *,
    images: int,
    sampling: str = "weighted",
    first: int = 0,
) -> Float[Tensor, ""]:
    """Estimates the total correlation of codes from a batch, in nats.

    Arguments:
        z: Codes drawn of the distributions of rows ``first`` and on.
        mean, log_variance: Of the distributions of a batch's codes.
        images: How many there are, N, at least as many as the batch has.
        sampling: ``"weighted"`` or ``"stratified"``.
    """
    apart = (z[:, None] - mean).square() * (-log_variance).exp()
    log_density = -(apart + log_variance + math.log(2 * math.pi)) / 2  # n m k
    shares = log_shares(len(z), len(mean), max(images, len(mean)), sampling=sampling, first=first, device=z.device)  # n m
    shares = shares.to(log_density)
    together = (log_density.sum(2) + shares).logsumexp(1)
    alone = (log_density + shares[:, :, None]).logsumexp(1).sum(1)
    return (together - alone).mean()


def log_shares(
    n: int, m: int, images: int, *, sampling: str, first: int = 0, device: torch.device | str = "cpu"
) -> Float[Tensor, "n m"]:
    """Returns the logarithms of what a batch's m images count in q(z) for the codes of n of them, from ``first`` on."""
    if sampling == "weighted" or m < 2:
        return torch.full((n, m), -math.log(images * m), dtype=torch.float64, device=device)
    row = torch.arange(n, device=device)
    shares = torch.full((n, m), 1 / (m - 1), dtype=torch.float64, device=device)
    shares[row, (row + first + 1) % m] = (images - m + 1) / (images * (m - 1))
    shares[row, row + first] = 1 / images
    return shares.log()
