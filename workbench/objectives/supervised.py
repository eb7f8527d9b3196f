r"""Supervised cross-entropy: name the class of each view, the yardstick for what labels would have taught.

With :math:`\ell` the logits of a linear head on the embedding and y the label, smoothed by :math:`\alpha` over C classes,

.. math:: L = -\frac{1}{N V} \sum_{i, v} \sum_c \left[ (1 - \alpha) \, \mathbb{1}(c = y_i) + \frac{\alpha}{C} \right]
    \log \mathrm{softmax}(\ell_{iv})_c

References:
    Rethinking the Inception Architecture for Computer Vision (Szegedy et al., 2016), section 7, https://arxiv.org/abs/1512.00567
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.objectives.base import checked, embed, in_full_precision
from workbench.objectives.labelled import Labelled

__all__ = ["Supervised"]


@in_full_precision
def cross_entropy(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"], *, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Cross-entropy in nats; log(C) where nothing is known."""
    return F.cross_entropy(logits, y, label_smoothing=smoothing)


class Supervised(Labelled):
    """Cross-entropy of a linear head on the embedding ``z`` (with ``Projector([])`` that is ``h``), for any number of views.

    Labels come from the images: ``read(images.factors)``, which the Trainer calls, keeps one class for every row, and
    ``views.index`` says which rows a batch shows.

    Arguments:
        factor: Name of the factor that is learned.
        classes: Its values, in the order of the head's outputs; None takes those that the images have, sorted.
        smoothing: Share of the target that is spread over all classes, from 0 to 1.

    Terms: ``loss``, and ``accuracy``, the share of views that are named rightly.
    """

    def __init__(self, *, factor: str = "label", classes: list[Any] | None = None, smoothing: float = 0.0) -> None:
        super().__init__(factor, classes)
        self.smoothing = smoothing
        self.register_module("head", None)

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        kind = torch.promote_types(sample.z.dtype, torch.float32)
        self.head = nn.Linear(sample.z.shape[1], len(self.known_classes())).to(sample.z.device, kind)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        y = self.labels_of(views)
        head = self.begun(self.head)
        images = checked(views, "Supervised", views_at_least=1, images_at_least=1)
        logits = torch.cat([head(e.z) for e in embed(model, images)])  # v*n c
        y = y.to(logits.device).repeat(len(images))
        accuracy = (logits.argmax(1) == y).float().mean()
        return {"loss": cross_entropy(logits, y, smoothing=self.smoothing), "accuracy": accuracy}
