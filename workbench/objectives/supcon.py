r"""Supervised contrastive learning: every other view of the same class is a positive.

For the 2N unit embeddings :math:`u` of N images, with :math:`P(i)` the other rows of the class of row i,

.. math:: L = \frac{1}{2N} \sum_i \frac{-1}{|P(i)|} \sum_{p \in P(i)} \log
    \frac{\exp(u_i \cdot u_p / \tau)}{\sum_{k \neq i} \exp(u_i \cdot u_k / \tau)}

Where all classes differ it is SimCLR's loss. Where public codes disagree we follow the paper: the mean over positives stands
outside of the logarithm (its L_out), and the loss is not multiplied by the temperature (the authors' code multiplies it by the
temperature over 0.07).

References:
    Supervised Contrastive Learning (Khosla et al., 2020), eq. 2, https://arxiv.org/abs/2004.11362
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core import Views
from workbench.distributed import gather, rank
from workbench.objectives.base import checked, embed_together, in_full_precision, positive
from workbench.objectives.labelled import Labelled

__all__ = ["SupCon"]


@in_full_precision
def supervised_contrast(
    z: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    others: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    itself: Int[Tensor, " n"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean over rows of ``z``, in nats.

    Arguments:
        z, y: Embeddings and their classes.
        others, labels: Those of the whole batch, among which row i of ``z`` is row ``itself[i]``.
        temperature: Divides the cosines.
    """
    logits = (F.normalize(z, dim=1) / temperature) @ F.normalize(others, dim=1).T  # n m
    alone = torch.zeros_like(logits, dtype=torch.bool)
    alone[torch.arange(len(z), device=z.device), itself] = True
    log_share = logits - logits.masked_fill(alone, -torch.inf).logsumexp(1, keepdim=True)
    same = (y[:, None] == labels[None, :]) & ~alone
    return -((log_share * same).sum(1) / same.sum(1)).mean()


class SupCon(Labelled):
    """Supervised contrastive loss on the embedding ``z``, of two or more views.

    Its authors' is ``Projector([2048, 2048, 128])``.

    Arguments:
        factor: Name of the factor whose values are the classes.
        temperature: Above 0; the paper's 0.1.
        classes: The factor's values; None takes those that the images have.

    Terms: ``loss``, at least the log of how many positives a row has.
    """

    def __init__(self, *, factor: str = "label", temperature: float = 0.1, classes: list[Any] | None = None) -> None:
        super().__init__(factor, classes)
        self.temperature = positive("temperature", temperature)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        images = checked(views, "SupCon")
        y = self.labels_of(views)
        zs = [e.z for e in embed_together(model, images)]
        every = torch.cat([gather(z) for z in zs])  # v*m d
        n, m = len(y), len(every) // len(zs)
        y = y.to(every.device)
        labels = gather(y).repeat(len(zs))
        itself = torch.cat([v * m + rank() * n + torch.arange(n, device=y.device) for v in range(len(zs))])
        loss = supervised_contrast(torch.cat(zs), y.repeat(len(zs)), every, labels, itself, temperature=self.temperature)
        return {"loss": loss}
