r"""BYOL: predict, from one view, what a slowly moving teacher makes of the other.

With :math:`q` the predictor's output for one view and :math:`z'` the teacher's embedding of the other, both scaled to length 1,

.. math:: L = \frac{1}{N} \sum_i \left( \|q_i - z'_i\|^2 + \|\tilde q_i - \tilde z'_i\|^2 \right), \qquad
    \xi \leftarrow m \, \xi + (1 - m) \, \theta, \qquad
    m = 1 - (1 - m_0) \, \frac{\cos(\pi k / K) + 1}{2}

where the tilde swaps the views, :math:`\xi` are the teacher's parameters, :math:`\theta` the model's, and k the step of K. Where
public codes disagree we follow the authors': the two directions add up (some average them, which halves the gradient), each
view passes by itself, and the teacher runs as in training: its BatchNorm uses the statistics of the batch and keeps running
ones of its own, while parameters alone are averaged. The predictor sees the batch of all processes.

References:
    Bootstrap Your Own Latent (Grill et al., 2020), eq. 1 to 3, https://arxiv.org/abs/2006.07733
"""

import torch
import torch.nn as nn
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.distributed import gather
from workbench.objectives.base import cosine, embed, in_full_precision, two_views
from workbench.objectives.teacher import Taught

__all__ = ["BYOL"]


@in_full_precision
def regression(q: Tensor, z: Tensor) -> Tensor:
    """Mean square distance of the rows of ``q`` (N, K) and ``z`` (N, K) on the unit sphere, 2 - 2 cos; from 0 to 4."""
    return 2 - 2 * cosine(q, z)


class BYOL(Taught):
    """BYOL on the embedding ``z``; its authors' is ``Projector([2048, 4096, 256])``.

    Arguments:
        hidden: Width of the predictor's hidden layer; 0 leaves the predictor out, without which BYOL collapses.
        momentum: The teacher's at the start; it rises to 1 at the end. The authors take 0.996 for 1,000 epochs, 0.99 for 100 to
            300 and 0.97 for 40.

    Terms: ``loss``, from 0 to 8.
    """

    def __init__(self, *, hidden: int = 4096, momentum: float = 0.996) -> None:
        super().__init__(momentum=momentum)
        self.hidden = hidden
        self.register_module("predictor", None)

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        width = sample.z.shape[1]
        predictor = nn.Sequential()
        if self.hidden:
            predictor.extend([nn.Linear(width, self.hidden), nn.BatchNorm1d(self.hidden), nn.ReLU()])
            predictor.append(nn.Linear(self.hidden, width, bias=False))
        self.predictor = predictor.to(sample.z.device, torch.promote_types(sample.z.dtype, torch.float32))
        self.appoint(model)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        predictor, teacher = self.begun(self.predictor), self.begun(self.teacher)
        images = two_views(views, "BYOL")
        q1, q2 = (predictor(gather(e.z)) for e in embed(model, images))
        with torch.no_grad():
            t1, t2 = (gather(e.z) for e in embed(teacher, images))
        return {"loss": regression(q1, t2) + regression(q2, t1)}
