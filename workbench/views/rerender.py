"""Views that draw the same object again under other circumstances, where images were drawn from their factors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from workbench.core import Views

if TYPE_CHECKING:
    from workbench.data.images import Images

__all__ = ["Rerender"]


class Rerender:
    """Renders every image ``n`` times with some of its factors drawn anew: what the views share is the rest.

    ``Views.actions`` holds the factors that were drawn, a tensor (B,) each, in the units of the renderer. The pixels given
    are not looked at, except for their device.

    Arguments:
        images: Images that carry a renderer; ``index`` counts their rows.
        n: Views an image.
        vary: The factors drawn anew; None is all that the renderer calls nuisances.

    Raises:
        ValueError: If the images have no renderer, or it does not draw a factor of ``vary``.

    Example:
        ``Rerender(garments(), vary=["rotation", "scale"])`` gives views that differ in pose alone.
    """

    def __init__(self, images: "Images", n: int = 2, *, vary: Sequence[str] | None = None) -> None:
        if getattr(images, "renderer", None) is None:
            raise ValueError(
                f"{images!r} has no renderer, so it cannot be drawn again; use garments(), sprites() or scenes(), or Augment"
            )
        if n < 1:
            raise ValueError(f"Rerender makes at least 1 view, but got n={n}")
        drawn = tuple(images.renderer.nuisances)
        unknown = sorted(set(vary or ()) - set(drawn))
        if isinstance(vary, str) or unknown or (vary is not None and not vary):
            raise ValueError(
                f"{images.name} can be drawn again with other {', '.join(drawn)}, but vary is {vary!r}; give a list of those"
            )
        self.images, self.n, self.vary = images, n, None if vary is None else list(vary)
        self._vary = drawn if vary is None else tuple(vary)
        kept = [c for c in images.factors if c not in self._vary and is_numeric_dtype(images.factors[c])]
        self._kept = {c: torch.from_numpy(images.factors[c].to_numpy(copy=True)) for c in kept}

    @torch.no_grad()
    def __call__(self, pixels: Tensor, index: Tensor) -> Views:
        """Returns the views, float (B, C, H, W) in [0, 1] on the device of the pixels, of the rows ``index``."""
        b, device, name = len(index), pixels.device, self.images.name
        if len(pixels) != b:
            raise ValueError(f"views were asked of {len(pixels)} images with {b} row numbers; give one an image")
        if index.device.type == "cpu" and b and not 0 <= int(index.min()) <= int(index.max()) < len(self.images):
            raise IndexError(
                f"{name} has rows 0 to {len(self.images) - 1}, but rows {int(index.min())} to {int(index.max())} were asked for; "
                f"train on the images that Rerender was given"
            )
        if self._kept and next(iter(self._kept.values())).device != device:
            self._kept = {c: values.to(device) for c, values in self._kept.items()}
        kept = {c: values[index.to(device)].repeat(self.n) for c, values in self._kept.items()}
        draws = self.images.renderer.sample(self.n * b, device=device)
        drawn = {c: draws[c] for c in self._vary}
        images = self.images.renderer({**kept, **drawn})
        actions = [dict(zip(drawn, view, strict=True)) for view in zip(*(v.split(b) for v in drawn.values()), strict=True)]
        return Views(list(images.split(b)), index, actions)
