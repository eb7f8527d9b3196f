r"""VICReg-exp and VICReg-ctr: the two steps that lead from VICReg to SimCLR, and the identity behind them.

For embeddings K of M dimensions (rows) and N samples (columns) let

.. math:: L_c = \|K^\top K - \mathrm{diag}(K^\top K)\|_F^2, \qquad L_{nc} = \|K K^\top - \mathrm{diag}(K K^\top)\|_F^2.

Contrasting samples and contrasting dimensions is the same but for the lengths of rows and columns (theorem 3.3):

.. math:: L_{nc} + \sum_j \|K_{j \cdot}\|^4 = L_c + \sum_i \|K_{\cdot i}\|^4

VICReg-exp replaces VICReg's squared covariances C by

.. math:: c_{exp}(K) = \frac{1}{M} \sum_i \log \sum_{j \neq i} e^{C_{ij} / \tau}

and VICReg-ctr applies the variance and the covariance term to the transposed matrix: it holds up the length of every embedding
and pushes samples apart, as DCL does. Here tensors have a row a sample. Where the paper leaves room we read its table 1: ctr
centres each dimension over the batch and does not centre the samples, so that a sample's spread is its length over
:math:`\sqrt{M - 1}`. The invariance and the variance are those of :class:`VICReg`, averaged as its authors' code has them. The
weights and the temperature that the paper used stand in a supplement that we have not seen: 25, 25, 1 are VICReg's, 0.1 is ours.

References:
    On the Duality Between Contrastive and Non-Contrastive Self-Supervised Learning (Garrido et al., 2023), definitions 3.1
    and 3.2, theorem 3.3, eq. 11 to 13, https://arxiv.org/abs/2206.02574
"""

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from workbench.core import Views
from workbench.distributed import gather
from workbench.objectives.base import Objective, embed, in_full_precision, off_diagonal, positive, two_views
from workbench.objectives.vicreg import invariance, variance

__all__ = ["VICRegCtr", "VICRegExp"]


@in_full_precision
def sample_contrast(z: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
    """L_c: the sum of the squared inner products of different samples."""
    return off_diagonal(z.T, z.T)


@in_full_precision
def dimension_contrast(z: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
    """L_nc: the sum of the squared inner products of different dimensions."""
    return off_diagonal(z, z)


@in_full_precision
def exp_covariance(z: Float[Tensor, "n d"], *, temperature: float) -> Float[Tensor, ""]:
    """Mean over dimensions of the log of the summed exponentials of their covariances with the others (eq. 11)."""
    z = z - z.mean(0)
    return _repulsion(z.T @ z / (len(z) - 1), temperature)


@in_full_precision
def exp_gram(z: Float[Tensor, "n d"], *, temperature: float) -> Float[Tensor, ""]:
    """The same of samples: their inner products over D - 1, after each dimension was centred over the batch."""
    z = z - z.mean(0)
    return _repulsion(z @ z.T / (z.shape[1] - 1), temperature)


@in_full_precision
def spread(z: Float[Tensor, "n d"], *, eps: float = 1e-4) -> Float[Tensor, ""]:
    """Mean over samples of how far their length over sqrt(D - 1) is below 1, after each dimension was centred; from 0 to 1."""
    z = z - z.mean(0)
    return (1 - (z.square().sum(1) / (z.shape[1] - 1) + eps).sqrt()).clamp(min=0).mean()


def _repulsion(c: Float[Tensor, "k k"], temperature: float) -> Float[Tensor, ""]:
    itself = torch.eye(len(c), dtype=torch.bool, device=c.device)
    return (c / temperature).masked_fill(itself, -torch.inf).logsumexp(1).mean()


class VICRegExp(Objective):
    """VICReg-exp on the embedding ``z``, of at least two dimensions.

    Arguments:
        invariance, variance, covariance: Weights of the three terms.
        temperature: Above 0; divides the covariances.

    Terms: ``loss``, and ``invariance``, ``variance``, ``covariance`` before their weights.
    """

    def __init__(
        self, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, temperature: float = 0.1
    ) -> None:
        super().__init__()
        self.invariance, self.variance, self.covariance = invariance, variance, covariance
        self.temperature = positive("temperature", temperature)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        z1, z2 = (e.z for e in embed(model, two_views(views, type(self).__name__)))
        if z1.shape[1] < 2:
            raise ValueError(
                f"{type(self).__name__} compares dimensions, but the embedding has {z1.shape[1]}; widen the projector."
            )
        s = invariance(z1, z2)
        z1, z2 = gather(z1), gather(z2)
        v = (self.held_up(z1) + self.held_up(z2)) / 2
        c = self.pushed(z1) + self.pushed(z2)
        loss = self.invariance * s + self.variance * v + self.covariance * c
        return {"loss": loss, "invariance": s, "variance": v, "covariance": c}

    def held_up(self, z: Tensor) -> Tensor:
        """Returns the variance term of one view."""
        return variance(z)

    def pushed(self, z: Tensor) -> Tensor:
        """Returns the covariance term of one view."""
        return exp_covariance(z, temperature=self.temperature)


class VICRegCtr(VICRegExp):
    """VICReg-ctr on the embedding ``z``: VICReg-exp with variance and covariance taken over samples.

    Arguments and terms are those of :class:`VICRegExp`.
    """

    def held_up(self, z: Tensor) -> Tensor:
        return spread(z)

    def pushed(self, z: Tensor) -> Tensor:
        return exp_gram(z, temperature=self.temperature)
