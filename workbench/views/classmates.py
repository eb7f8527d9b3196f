"""Views of two images of the same class in place of two views of one image: what an oracle of the label would call a pair.

Bordes, Balestriero, Garrido, Bardes and Vincent, "Guillotine Regularization", TMLR 2023, use such pairs to show that the best
layer moves to the projector's end where the pairs agree with the task.
"""

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from workbench.core import Views

if TYPE_CHECKING:
    from workbench.data.images import Images

__all__ = ["Classmates"]


class Classmates:
    """Gives every image two views: one of itself, one of another image that has the same value of a factor.

    The other image is drawn anew each time, evenly from its class; where a class has one image, it is that one.
    ``Views.actions`` holds, for each view, the parameters that ``views`` recorded, and ``row``, which image it shows.

    Arguments:
        images: Images with that factor; ``index`` counts their rows.
        views: A maker of views, of which the first is taken.
        factor: A discrete factor.

    Raises:
        KeyError: If the images have no such factor.
        ValueError: If it is continuous, or missing somewhere.

    Example:
        ``Classmates(images, Augment(1))`` makes SimCLR's positives those of supervised contrastive learning.
    """

    def __init__(self, images: "Images", views: Any = None, *, factor: str = "label") -> None:
        from workbench.views.augment import Augment

        if factor not in images.factors:
            raise KeyError(f"{images.name} has no factor {factor!r}; it has {list(images.factors)}")
        column = images.factors[factor]
        if column.isna().any() or (column.dtype.kind == "f" and (column % 1 != 0).any()):
            raise ValueError(f"classmates share a class, but {factor!r} of {images.name} is continuous or missing somewhere")
        self.images, self.views, self.factor = images, Augment(1) if views is None else views, factor
        codes = torch.from_numpy(pd.factorize(column)[0]).long()
        self._classes = Classes(codes)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, index: Tensor) -> Views:
        """Returns two views, float (B, C, H, W) in [0, 1] on the device of the pixels, of the rows ``index``."""
        mine = index.cpu()
        mate = self._classes.mate(mine)
        parts = [
            self.views(pixels, index),
            self.views(self.images.at(mate).to(pixels.device, non_blocking=True), mate.to(index.device)),
        ]
        actions = None
        if all(part.actions for part in parts):
            actions = [part.actions[0] | {"row": row.to(pixels.device)} for part, row in zip(parts, (mine, mate), strict=True)]
        return Views([part.images[0] for part in parts], index, actions)


class Classes:
    """Rows in classes, from which other rows of the same class are drawn.

    Arguments:
        codes: The class of every row, numbers from 0.
    """

    def __init__(self, codes: Tensor) -> None:
        self.order = torch.argsort(codes, stable=True)  # rows, class by class
        sizes = torch.bincount(codes)
        self.size, self.start = sizes[codes], (sizes.cumsum(0) - sizes)[codes]
        self.place = torch.empty_like(codes)  # of a row among those of its class
        self.place[self.order] = torch.arange(len(codes)) - (sizes.cumsum(0) - sizes)[codes[self.order]]

    def mate(self, rows: Tensor, *, itself: bool = False) -> Tensor:
        """Returns a row of the class of each, drawn evenly from the others (where there are any), or with ``itself`` from all."""
        steps = (self.size[rows] - (0 if itself else 1)).clamp(min=1)
        step = (0 if itself else 1) + (torch.rand(len(rows)) * steps).long().clamp(max=steps - 1)
        return self.order[self.start[rows] + (self.place[rows] + step) % self.size[rows]]
