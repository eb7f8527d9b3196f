"""What objectives share that learn from a factor of the images: its classes, and the label of every row."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.core import Views
from workbench.objectives.base import Objective

__all__: list[str] = []


class Labelled(Objective):
    """An objective that knows, for every image, its value of a factor.

    Labels come from the images: ``read(images.factors)``, which the Trainer calls, keeps one class for every row, and
    ``views.index`` says which rows a batch shows.

    Arguments:
        factor: Name of the factor.
        classes: Its values, in the order of their numbers; None takes those that the images have, sorted.
    """

    def __init__(self, factor: str, classes: list[Any] | None) -> None:
        super().__init__()
        self.factor, self.classes = factor, classes
        self.register_buffer("labels", None, persistent=False)

    def read(self, factors: Any) -> None:
        """Takes the labels from a table of factors, one row an image.

        Raises:
            KeyError: If it has no column of that name.
            ValueError: If labels are missing, continuous, or not among ``classes``.
        """
        if self.factor not in factors:
            raise KeyError(
                f"{type(self).__name__} learns the factor {self.factor!r}, but the images have {list(factors)}; choose factor=."
            )
        column = factors[self.factor]
        if column.isna().any():
            raise ValueError(f"{column.isna().sum()} of {len(column)} images have no {self.factor!r}; keep those that have one.")
        if column.dtype.kind == "f" and (column % 1 != 0).any():
            raise ValueError(
                f"the factor {self.factor!r} is continuous ({column.nunique():,} values in {len(column):,} images), but "
                f"{type(self).__name__} names classes; cut it into bins first, with pandas.cut(...).cat.codes."
            )
        if self.classes is None:
            self.classes = sorted(column.unique().tolist())
        codes = column.map({value: code for code, value in enumerate(self.classes)})
        if codes.isna().any():
            raise ValueError(
                f"the images have the {self.factor!r} {column[codes.isna()].iloc[0]!r}, which is not among the classes "
                f"{self.classes}; give the classes, or make a new {type(self).__name__} for other images."
            )
        self.labels = torch.tensor(codes.to_numpy("int64"))

    def labels_of(self, views: Views) -> Int[Tensor, " n"]:
        """Returns the number of the class of each image of a batch, or says that no labels were read."""
        if self.labels is None:
            raise RuntimeError(self._unread)
        self.labels = self.labels.to(views.index.device)  # once: the index would be waited for at every step
        return self.labels[views.index]

    def known_classes(self) -> list[Any]:
        """Returns the classes, or says that no labels were read."""
        if self.classes is None:
            raise RuntimeError(self._unread)
        return self.classes

    @property
    def _unread(self) -> str:
        return f"{type(self).__name__} knows no labels: call objective.read(images.factors) before objective.begin(...)."
