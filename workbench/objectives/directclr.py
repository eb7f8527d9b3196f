r"""DirectCLR: contrast the first dimensions of the representation itself, without a projector.

With :math:`u_i, v_i` the first :math:`d_0` entries of the two views' representations of image :math:`i`, each scaled to length 1,

.. math:: L = \frac{I(u, v) + I(v, u)}{2}, \qquad
    I(u, v) = -\frac{1}{N} \sum_i \log \frac{\exp(u_i \cdot v_i / \tau)}{\sum_j \exp(u_i \cdot v_j / \tau)}

Where public codes disagree we follow the authors': a row has the N - 1 negatives of the other view alone (lightly's has
SimCLR's 2N - 2), and the slice is of dimensions (one public code slices the batch). The remaining dimensions learn through
the residual connection of the last block, so a backbone without one does not test the paper's claim.

References:
    Understanding Dimensional Collapse in Contrastive Self-supervised Learning (Jing et al., 2022), section 6,
    https://arxiv.org/abs/2110.09348
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.distributed import gather, rank
from workbench.objectives.base import Objective, embed, freeze_projector, in_full_precision, positive, two_views

__all__ = ["DirectCLR"]


@in_full_precision
def info_nce(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], *, temperature: float, first: int = 0) -> Float[Tensor, ""]:
    """Cross-entropy, in nats, of finding row ``first + i`` of ``b`` by its cosine to row i of ``a``; log(m) at total collapse."""
    logits = (F.normalize(a, dim=1) / temperature) @ F.normalize(b, dim=1).T  # n m
    return F.cross_entropy(logits, torch.arange(first, first + len(a), device=a.device))


class DirectCLR(Objective):
    """DirectCLR on the representation ``h``.

    The projector of a model that has one is not used; ``begin`` freezes its parameters and says so.

    Arguments:
        dim: How many of the first dimensions are contrasted: a whole number, or a fraction (float, up to 1.0) of the width. The
            default is the paper's 360 of a ResNet-50's 2,048, at any width.
        temperature: Above 0.

    Terms: ``loss``, from 0 up to about 2 / temperature + log(N).
    """

    def __init__(self, *, dim: int | float = 360 / 2048, temperature: float = 0.1) -> None:
        super().__init__()
        self.dim, self.temperature = positive("dim", dim), positive("temperature", temperature)
        if isinstance(dim, float) and dim > 1:
            raise ValueError(f"DirectCLR's dim is a whole number, or a fraction up to 1.0, but got {dim}; write dim={dim:.0f}.")

    def contrasted(self, width: int) -> int:
        """How many dimensions of a representation of ``width`` are contrasted.

        Raises:
            ValueError: If it has fewer than that.
        """
        if isinstance(self.dim, float):
            return max(1, round(self.dim * width))
        if self.dim > width:
            raise ValueError(
                f"DirectCLR contrasts the first {self.dim} dimensions of the representation, but it has {width}; "
                f"choose dim up to {width}, or a fraction such as dim=0.18."
            )
        return self.dim

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        self.contrasted(sample.h.shape[1])
        freeze_projector(model, "DirectCLR")

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        h1, h2 = (e.h for e in embed(model, two_views(views, "DirectCLR")))
        d0 = self.contrasted(h1.shape[1])
        u, v, first = h1[:, :d0], h2[:, :d0], rank() * len(h1)
        there = info_nce(u, gather(v), temperature=self.temperature, first=first)
        back = info_nce(v, gather(u), temperature=self.temperature, first=first)
        return {"loss": (there + back) / 2}
