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
from workbench.objectives.base import Objective, checked, embed, in_full_precision

__all__ = ["Supervised"]

UNREAD = "Supervised knows no labels: call objective.read(images.factors) before objective.begin(...)."


@in_full_precision
def cross_entropy(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"], *, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Cross-entropy in nats; log(C) where nothing is known."""
    return F.cross_entropy(logits, y, label_smoothing=smoothing)


class Supervised(Objective):
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
        super().__init__()
        self.factor, self.classes, self.smoothing = factor, classes, smoothing
        self.register_buffer("labels", None, persistent=False)
        self.register_module("head", None)

    def read(self, factors: Any) -> None:
        """Takes the labels from a table of factors, one row an image.

        Raises:
            KeyError: If it has no column of that name.
            ValueError: If labels are missing, continuous, or not among ``classes``.
        """
        if self.factor not in factors:
            raise KeyError(f"Supervised learns the factor {self.factor!r}, but the images have {list(factors)}; choose factor=.")
        column = factors[self.factor]
        if column.isna().any():
            raise ValueError(f"{column.isna().sum()} of {len(column)} images have no {self.factor!r}; keep those that have one.")
        if column.dtype.kind == "f" and (column % 1 != 0).any():
            raise ValueError(
                f"the factor {self.factor!r} is continuous ({column.nunique():,} values in {len(column):,} images), but "
                f"Supervised names classes; cut it into bins first, with pandas.cut(...).cat.codes."
            )
        if self.classes is None:
            self.classes = sorted(column.unique().tolist())
        codes = column.map({value: code for code, value in enumerate(self.classes)})
        if codes.isna().any():
            raise ValueError(
                f"the images have the {self.factor!r} {column[codes.isna()].iloc[0]!r}, which is not among the classes "
                f"{self.classes}; give the classes, or make a new Supervised for other images."
            )
        self.labels = torch.tensor(codes.to_numpy("int64"))

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        if self.classes is None:
            raise RuntimeError(UNREAD)
        kind = torch.promote_types(sample.z.dtype, torch.float32)
        self.head = nn.Linear(sample.z.shape[1], len(self.classes)).to(sample.z.device, kind)
        self.labels = None if self.labels is None else self.labels.to(sample.z.device)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        if self.labels is None:
            raise RuntimeError(UNREAD)
        head = self.begun(self.head)
        images = checked(views, "Supervised", views_at_least=1, images_at_least=1)
        logits = torch.cat([head(e.z) for e in embed(model, images)])  # v*n c
        y = self.labels[views.index.to(self.labels.device)].repeat(len(images))
        accuracy = (logits.argmax(1) == y).float().mean()
        return {"loss": cross_entropy(logits, y, smoothing=self.smoothing), "accuracy": accuracy}
