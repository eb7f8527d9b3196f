r"""SimSiam: predict one view's embedding from the other's, which stands still for the gradient.

With :math:`p = h(z)` the predictor's output and sg the stop-gradient,

.. math:: L = -\frac{1}{2N} \sum_i \left[ \cos(p_i, \mathrm{sg}(z'_i)) + \cos(p'_i, \mathrm{sg}(z_i)) \right]

As in the authors' code each view passes by itself, and the predictor sees the batch of all processes. Their projector ends in a
BatchNorm (``Projector(..., norm_last=True)``), and their predictor's learning rate does not decay (section 4.2).

References:
    Exploring Simple Siamese Representation Learning (Chen and He, 2021), eq. 1 to 4, https://arxiv.org/abs/2011.10566
"""

import torch
import torch.nn as nn
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.distributed import gather
from workbench.objectives.base import Objective, cosine, embed, in_full_precision, two_views

__all__ = ["SimSiam"]


@in_full_precision
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Minus the mean cosine of the rows of ``p`` (N, K) to those of ``z`` (N, K), which get no gradient; from -1 to 1."""
    return -cosine(p, z.detach())


class SimSiam(Objective):
    """SimSiam on the embedding ``z``; its authors' is ``Projector([2048, 2048, 2048, 2048], norm_last=True)``.

    Arguments:
        hidden: Width of the predictor's hidden layer; None is a quarter of the embedding's, as the paper's 512 of 2,048.

    Terms: ``loss``, from -1 to 1.
    """

    undecayed = ("predictor",)

    def __init__(self, *, hidden: int | None = None) -> None:
        super().__init__()
        self.hidden = hidden
        self.register_module("predictor", None)

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        width = sample.z.shape[1]
        hidden = self.hidden or max(1, width // 4)
        self.predictor = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        ).to(sample.z.device, torch.promote_types(sample.z.dtype, torch.float32))

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        predictor = self.begun(self.predictor)
        z1, z2 = (gather(e.z) for e in embed(model, two_views(views, "SimSiam")))
        p1, p2 = predictor(z1), predictor(z2)
        return {"loss": (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2}
