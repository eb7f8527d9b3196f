r"""Spectral contrastive loss: inner products of views of one image are large, those of others' are squared and small.

For embeddings :math:`z, z'` of the two views of N images,

.. math:: L = -\frac{2}{N} \sum_i z_i \cdot z'_i + \frac{1}{N (N - 1)} \sum_{i \neq j} (z_i \cdot z'_j)^2

Up to a constant it is the squared error of factorising the normalised adjacency matrix of the graph whose vertices are views and
whose edges join views of one image (section 3.2), so that its minimum spans the top eigenvectors of that matrix. The authors
train with embeddings held in a ball.

References:
    Provable Guarantees for Self-Supervised Deep Learning with Spectral Contrastive Loss (HaoChen et al., 2021), eq. 6,
    https://arxiv.org/abs/2106.04156
"""

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from workbench.core import Views
from workbench.distributed import gather, rank
from workbench.objectives.base import Objective, embed_together, in_full_precision, positive, two_views

__all__ = ["SpectralContrastive"]


@in_full_precision
def spectral_contrast(
    z1: Float[Tensor, "n d"], z2: Float[Tensor, "n d"], all2: Float[Tensor, "m d"] | None = None, *, first: int = 0
) -> Float[Tensor, ""]:
    """The loss of rows ``first`` to ``first + n`` of a batch of m images, whose second views are all in ``all2``."""
    all2 = z2 if all2 is None else all2
    n, m = len(z1), len(all2)
    products = z1 @ all2.T  # n m
    same = products.diagonal(first)
    return -2 * same.mean() + (products.square().sum() - same.square().sum()) / (n * (m - 1))


@in_full_precision
def into_ball(z: Float[Tensor, "n d"], *, radius: float) -> Float[Tensor, "n d"]:
    """Shortens rows that are longer than ``radius`` to that length."""
    return z * (radius / z.norm(dim=1, keepdim=True).clamp(min=radius))


class SpectralContrastive(Objective):
    """The spectral contrastive loss on the embedding ``z``.

    Arguments:
        radius: Embeddings that are longer are shortened to this, and the loss is divided by its square, as the authors' code does
            (its ``mu`` is the square); None leaves both as they are. A larger ball is as a lower temperature.

    Terms: ``loss``, from -2 to 2 + radius^2.
    """

    def __init__(self, *, radius: float | None = 1.0) -> None:
        super().__init__()
        self.radius = radius if radius is None else positive("radius", radius)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        z1, z2 = (e.z for e in embed_together(model, two_views(views, "SpectralContrastive")))
        if self.radius is not None:
            z1, z2 = (into_ball(z, radius=self.radius) for z in (z1, z2))
        loss = spectral_contrast(z1, z2, gather(z2), first=rank() * len(z1))
        return {"loss": loss if self.radius is None else loss / self.radius**2}
