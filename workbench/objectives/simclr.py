r"""SimCLR: find the other view of an image among all other views in the batch.

For the 2N unit embeddings :math:`u` of N images, with :math:`p(i)` the other view of the image of row :math:`i`,

.. math:: L = -\frac{1}{2N} \sum_i \log
    \frac{\exp(u_i \cdot u_{p(i)} / \tau)}{\sum_{k \neq i} \exp(u_i \cdot u_k / \tau)}

so every row has one positive and 2N - 2 negatives, the second view of the other images and the first. Where public codes
disagree we follow the authors': the negatives of both views count (DirectCLR's InfoNCE has the N - 1 across views alone), and
both views pass the network as one batch, so BatchNorm sees them together. Their code sums the two views' means; the paper's
equation, and we, average them.

References:
    A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., 2020), eq. 1,
    https://arxiv.org/abs/2002.05709
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core import Views
from workbench.distributed import gather, rank
from workbench.objectives.base import Objective, embed_together, in_full_precision, positive, two_views

__all__ = ["SimCLR"]


@in_full_precision
def nt_xent(
    z1: Float[Tensor, "n k"],
    z2: Float[Tensor, "n k"],
    all1: Float[Tensor, "m k"] | None = None,
    all2: Float[Tensor, "m k"] | None = None,
    *,
    temperature: float,
    first: int = 0,
) -> Float[Tensor, ""]:
    """Normalised-temperature cross-entropy of two views, in nats; log(2n - 1) where all embeddings are one point.

    Arguments:
        z1, z2: Row i of each is a view of image i.
        all1, all2: What to look among, where that is more: the batch of all processes, of which z1 and z2 are the rows from
            ``first`` on. Each process then holds 2n x 2m similarities, not 2m x 2m.
        temperature: Divides the cosines.
    """
    all1, all2 = (z1, z2) if all1 is None or all2 is None else (all1, all2)
    n, m = len(z1), len(all1)
    own = F.normalize(torch.cat([z1, z2]), dim=1) / temperature
    others = F.normalize(torch.cat([all1, all2]), dim=1)
    logits = own @ others.T  # 2n 2m
    row = torch.arange(2 * n, device=z1.device)
    itself = row % n + first + m * (row // n)
    with torch.no_grad():  # the softmax gives these entries no gradient anyway; recording it would copy the largest tensor
        logits[row, itself] = -torch.inf
    return F.cross_entropy(logits, (itself + m) % (2 * m))


class SimCLR(Objective):
    """SimCLR on the embedding ``z``; its authors' is ``Projector([2048, 2048, 128], norm_last=True)``.

    Arguments:
        temperature: Above 0; the paper's 0.1 for ImageNet, 0.5 for CIFAR-10.

    Terms: ``loss``, from 0 up to about 2 / temperature + log(2N).
    """

    def __init__(self, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        e1, e2 = embed_together(model, two_views(views, "SimCLR"))
        loss = nt_xent(e1.z, e2.z, gather(e1.z), gather(e2.z), temperature=self.temperature, first=rank() * len(e1.z))
        return {"loss": loss}
