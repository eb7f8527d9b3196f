r"""Barlow Twins: make the cross-correlation matrix of two views the identity.

With :math:`\hat Z, \hat Z'` (N, D) the embeddings of two views, each dimension with mean 0 and standard deviation 1 in the batch,

.. math:: L = \sum_j (1 - C_{jj})^2 + \lambda \sum_{j \neq k} C_{jk}^2, \qquad C = \hat Z^\top \hat Z' / N

Where public codes disagree we follow the authors': the standard deviation is the biased one (over N) of a BatchNorm without
scale and shift, as in lightly, so that identical views give a diagonal of 1. The paper's listing and stable-pretraining divide
by the unbiased one, and their diagonal ends at (N - 1) / N.

References:
    Barlow Twins: Self-Supervised Learning via Redundancy Reduction (Zbontar et al., 2021), eq. 1 and 2,
    https://arxiv.org/abs/2103.03230
"""

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from workbench.core import Views
from workbench.distributed import gather
from workbench.objectives.base import Objective, embed, in_full_precision, off_diagonal, two_views

__all__ = ["BarlowTwins"]


@in_full_precision
def standardised(z: Float[Tensor, "n d"], *, eps: float = 1e-5) -> Float[Tensor, "n d"]:
    """Each column with mean 0 and (biased) standard deviation 1, as BatchNorm does; 0 where a column is constant."""
    z = z - z.mean(0)
    return z / (z.square().mean(0) + eps).sqrt()


@in_full_precision
def invariance(z1: Float[Tensor, "n d"], z2: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Sum over dimensions of the squared distance to 1 of the two views' correlation; from 0 to 4 D."""
    return (1 - (standardised(z1) * standardised(z2)).mean(0)).square().sum()


@in_full_precision
def redundancy(z1: Float[Tensor, "n d"], z2: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Sum of the squared correlations between different dimensions of the two views; from 0 to D (D - 1)."""
    return off_diagonal(standardised(z1), standardised(z2)) / len(z1) ** 2


class BarlowTwins(Objective):
    """Barlow Twins on the embedding ``z``; its authors' is ``Projector([2048, 8192, 8192, 8192])``.

    Arguments:
        redundancy: Weight of the off-diagonal entries.
        scale: Of the whole loss, which sums over dimensions; 1 with the authors' LARS, 0.024 to 0.1 in recipes with SGD.

    Terms: ``loss``, and ``invariance``, ``redundancy`` before weight and scale.
    """

    def __init__(self, *, redundancy: float = 0.0051, scale: float = 1.0) -> None:
        super().__init__()
        self.redundancy, self.scale = redundancy, scale

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        z1, z2 = (gather(e.z) for e in embed(model, two_views(views, "BarlowTwins")))
        on, off = invariance(z1, z2), redundancy(z1, z2)
        return {"loss": self.scale * (on + self.redundancy * off), "invariance": on, "redundancy": off}
