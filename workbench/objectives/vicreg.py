r"""VICReg: draw two views together, hold every dimension's spread up, and its correlations with the others down.

For embeddings :math:`Z, Z'` (N, D) of two views, with :math:`C(Z)` the covariance matrix (over N - 1),

.. math:: L = \lambda \, s(Z, Z') + \mu \, \frac{v(Z) + v(Z')}{2} + \nu \, [c(Z) + c(Z')]

    s = \frac{1}{N D} \sum_i \|z_i - z'_i\|^2, \quad
    v(Z) = \frac{1}{D} \sum_j \max(0, 1 - \sqrt{C_{jj} + \epsilon}), \quad
    c(Z) = \frac{1}{D} \sum_{j \neq k} C_{jk}^2

Where public codes disagree we follow the authors' code, with which the paper's numbers were made: the mean square difference
also divides by D (the paper's eq. 5 by N alone), the variance term of the two views is averaged (eq. 6, solo-learn and
eb_jepa add it), the covariance term is added, and divides by D (eb_jepa by D (D - 1)).

References:
    VICReg: Variance-Invariance-Covariance Regularization (Bardes et al., 2022), eq. 1 to 6,
    https://arxiv.org/abs/2105.04906
"""

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from workbench.core import Views
from workbench.distributed import gather
from workbench.objectives.base import Objective, embed, in_full_precision, off_diagonal, two_views

__all__ = ["VICReg"]


@in_full_precision
def invariance(z1: Float[Tensor, "n d"], z2: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean square difference of two views; 0 where they agree."""
    return (z1 - z2).square().mean()


@in_full_precision
def variance(z: Float[Tensor, "n d"], *, eps: float = 1e-4) -> Float[Tensor, ""]:
    """Mean over dimensions of how far the standard deviation is below 1; from 0 to 1 (``eps`` keeps the slope finite)."""
    return (1 - (z.var(0) + eps).sqrt()).clamp(min=0).mean()


@in_full_precision
def covariance(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Sum of the squared covariances of different dimensions, over D; 0 where they are uncorrelated."""
    n, d = z.shape
    z = (z - z.mean(0)) / (n - 1) ** 0.5
    return off_diagonal(z, z) / d


class VICReg(Objective):
    """VICReg on the embedding ``z``; its authors' is ``Projector([2048, 8192, 8192, 8192])``.

    Arguments:
        invariance, variance, covariance: Weights of the three terms.

    Terms: ``loss``, and ``invariance``, ``variance``, ``covariance`` before their weights.
    """

    def __init__(self, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        z1, z2 = (e.z for e in embed(model, two_views(views, "VICReg")))
        s = invariance(z1, z2)
        z1, z2 = gather(z1), gather(z2)
        v = (variance(z1) + variance(z2)) / 2
        c = covariance(z1) + covariance(z2)
        loss = self.invariance * s + self.variance * v + self.covariance * c
        return {"loss": loss, "invariance": s, "variance": v, "covariance": c}
