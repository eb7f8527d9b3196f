"""Multi-crop: a few large crops and many small ones of every image (Caron et al. 2020, SwAV; 2021, DINO)."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor

from workbench.core import Views
from workbench.views.augment import CHANCES, Augment, Probability, each_view
from workbench.views.presets import MULTICROPS

__all__ = ["MultiCrop"]


@dataclass(frozen=True)
class MultiCrop:
    """Makes ``large`` views at full size, then ``small`` views at a smaller size and of smaller areas.

    Arguments:
        large: Large views an image; they come first.
        small: Small views an image.
        size: Side of a large view in pixels; None keeps the height and width of the images.
        small_size: Side of a small view in pixels; None is 3/7 of the large one (96 of 224).
        scale: Smallest and largest area of a large crop, as a share of the image.
        small_scale: Smallest and largest area of a small crop.
        ratio: Smallest and largest width of a crop over its height.
        flip: As in ``Augment``, where a sequence has ``large + small`` probabilities; so for all the others.
        jitter: As in ``Augment``.
        jitter_p: As in ``Augment``.
        grey: As in ``Augment``.
        blur: As in ``Augment``.
        blur_sigma: As in ``Augment``.
        solarise: As in ``Augment``.
        record: As in ``Augment``.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> views = MultiCrop(2, 4, small_size=4)(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5))
        >>> [v.shape[-1] for v in views.images]
        [8, 8, 4, 4, 4, 4]
    """

    large: int = 2
    small: int = 6
    _: KW_ONLY
    size: int | None = None
    small_size: int | None = None
    scale: tuple[float, float] = (0.14, 1.0)
    small_scale: tuple[float, float] = (0.05, 0.14)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_p: Probability = 0.8
    grey: Probability = 0.2
    blur: Probability = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise: Probability = 0.0
    record: bool = False

    def __post_init__(self) -> None:
        if self.large < 1 or self.small < 1:
            raise ValueError(
                f"MultiCrop makes at least 1 large and 1 small view, but got {self.large} and {self.small}; else use Augment"
            )
        self._parts()

    @property
    def n(self) -> int:
        """The number of views, large and small."""
        return self.large + self.small

    def _parts(self) -> tuple[Augment, Augment]:
        views = each_view(self, self.n)
        same = {"ratio": self.ratio, "jitter": self.jitter, "blur_sigma": self.blur_sigma, "record": self.record}
        large, small = (
            {name: [v[name] for v in part] for name in CHANCES} for part in (views[: self.large], views[self.large :])
        )
        return (
            Augment(self.large, size=self.size, scale=self.scale, **large, **same),
            Augment(self.small, size=self.small_size, scale=self.small_scale, **small, **same),
        )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "MultiCrop":
        """Returns the views of a paper, ``"swav"`` or ``"dino"``; ``changes`` are arguments to replace.

        Raises:
            KeyError: If there is no preset of that name.
        """
        if name not in MULTICROPS:
            raise KeyError(f"there is no preset {name!r}; there are {', '.join(MULTICROPS)}")
        return cls(**MULTICROPS[name] | changes)

    def __call__(self, pixels: Tensor, index: Tensor) -> Views:
        """Returns the views, float in [0, 1] (B, C, side, side) with the sides of ``size`` and ``small_size``."""
        at_large, at_small = self._parts()
        large = at_large(pixels, index)
        side = (self.small_size,) * 2 if self.small_size else tuple(max(1, round(s * 3 / 7)) for s in large.images[0].shape[2:])
        small = at_small.at_size(pixels, index, side)
        actions = large.actions + small.actions if self.record else None
        return Views(large.images + small.images, index, actions)
