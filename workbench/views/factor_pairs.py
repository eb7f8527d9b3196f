"""Views of two images that share some of their factors, and nobody says which: weak supervision for AdaVAE.

Locatello, Poole, Rätsch, Schölkopf, Bachem and Tschannen, "Weakly-Supervised Disentanglement Without Compromises", ICML 2020:
of n factors, k are drawn anew for the second image, with k fixed or itself drawn from 1 to n - 1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.core import Views
from workbench.views.classmates import Classes

if TYPE_CHECKING:
    from workbench.data.images import Images

__all__ = ["FactorPairs"]


class FactorPairs:
    """Gives every image two views: one of itself, one of an image that agrees in all factors but ``changed`` of them.

    Which factors may differ is drawn for each image; the other is drawn evenly from the images that agree in all the rest, itself
    included, so that a factor that may differ sometimes does not. Of a full grid that is drawing those factors anew; where
    factors go together, they do so within pairs.

    Arguments:
        images: Images with factors; ``index`` counts their rows.
        views: A maker of views, of which the first is taken; by default the images as they are.
        factors: Which columns are factors of the pair; by default all that have several values and repeat no other column.
        changed: How many may differ, from 1 to one less than there are; None draws the number for each image.

    ``Views.actions`` holds, for each view, ``row``, which image it shows.

    Raises:
        KeyError: If the images have no such factor.
        ValueError: If there are fewer than 2 factors, ``changed`` lies outside its range, or a factor has
            more values than half as many as there are images.

    Example:
        ``FactorPairs(sprites(None, orientations=4, positions=4, hues=4, background_hues=1))``
    """

    def __init__(
        self, images: "Images", views: Any = None, *, factors: Sequence[str] | None = None, changed: int | None = None
    ) -> None:
        from workbench.views.plain import Plain

        self.images, self.views = images, Plain() if views is None else views
        self.factors, self.changed = None if factors is None else list(factors), changed
        table = images.factors
        unknown = [name for name in factors or () if name not in table]
        if unknown:
            raise KeyError(f"{images.name} has no factor {unknown[0]!r}; it has {list(table)}")
        self._codes = {name: pd.factorize(table[name])[0] for name in factors or table}
        if factors is None:
            self._codes = _distinct(self._codes)
        self._n = len(self._codes)
        fine = [name for name, code in self._codes.items() if code.max() + 1 > max(len(table) // 2, 2)]
        if fine:
            raise ValueError(
                f"images that agree in {fine[0]!r} are needed, but {images.name} has {self._codes[fine[0]].max() + 1:,} values "
                f"of it in {len(table):,} images; choose factors=, or Rerender, which draws images again"
            )
        if self._n < 2 or not 1 <= (1 if changed is None else changed) < self._n:
            raise ValueError(
                f"a pair shares some factors and not others, but {images.name} has {list(self._codes)} and changed is {changed}; "
                f"it may be 1 to {max(self._n - 1, 1)} of at least 2"
            )
        self._known: dict[tuple[bool, ...], Classes] = {}

    @torch.no_grad()
    def __call__(self, pixels: Tensor, index: Tensor) -> Views:
        """Returns two views, float (B, C, H, W) in [0, 1] on the device of the pixels, of the rows ``index``."""
        mine = index.cpu()
        differs = self.draw(len(mine))
        mate = torch.empty_like(mine)
        for which in differs.unique(dim=0):
            here = (differs == which).all(1)
            mate[here] = self.classes(tuple(which.tolist())).mate(mine[here], itself=True)
        parts = [
            self.views(pixels, index),
            self.views(self.images.at(mate).to(pixels.device, non_blocking=True), mate.to(index.device)),
        ]
        actions = [{"row": row.to(pixels.device)} for row in (mine, mate)]
        return Views([part.images[0] for part in parts], index, actions)

    def draw(self, n: int) -> Tensor:
        """Returns, for n images, which of the factors may differ (n, factors)."""
        k = torch.randint(1, self._n, (n, 1)) if self.changed is None else torch.full((n, 1), self.changed)
        return torch.rand(n, self._n).argsort(1).argsort(1) < k

    def classes(self, differs: tuple[bool, ...]) -> "Classes":
        """Returns the images in classes of those that agree in all factors but these."""
        if differs not in self._known:
            kept = [code for code, other in zip(self._codes.values(), differs, strict=True) if not other]
            self._known[differs] = Classes(torch.from_numpy(np.unique(np.stack(kept, 1), axis=0, return_inverse=True)[1].ravel()))
        return self._known[differs]


def _distinct(codes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the columns that have several values, without those that say what another did (a name beside its number)."""
    seen: set[bytes] = set()
    found = {}
    for name, code in codes.items():
        if code.max() > 0 and code.tobytes() not in seen:
            found[name] = code
        seen.add(code.tobytes())
    return found
