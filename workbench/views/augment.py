"""Random views of a batch, made in one pass on its own device: crop, flip, colour jitter, grey, blur, solarise.

The distributions are torchvision's (``RandomResizedCrop``, ``ColorJitter``, ...) as SimCLR (Chen et al. 2020, appendix A)
put them together, and every image has its own draw of every parameter. One thing is drawn more coarsely: the order of the
four parts of the jitter, which torchvision draws for every image, is drawn once for each view of a batch.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.core import Views
from workbench.views.batches import Groups, check_pixels, on_some, portions
from workbench.views.boxes import random_boxes
from workbench.views.colour import brightness, contrast, greyscale, hue, saturation, solarise
from workbench.views.presets import AUGMENTATIONS
from workbench.views.spatial import blur, taps, transposed, weigh

__all__ = ["JITTER_ORDERS", "Augment"]

JITTER = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
JITTER_ORDERS = tuple(itertools.permutations(JITTER))

CHANCES = ("flip", "jitter_p", "grey", "blur", "solarise")  # the arguments that are probabilities

Probability = float | Sequence[float]


@dataclass(frozen=True)
class Augment:
    """Makes ``n`` random views of every image: a callable ``(pixels, index) -> Views``.

    Random numbers come from torch's global generators, so the same ``torch.manual_seed`` gives the same views on one device.
    Every probability may also be a sequence of ``n``, one a view, which is how asymmetric views are written:
    ``Augment(2, blur=(1.0, 0.1), solarise=(0.0, 0.2))``. Images of one channel are not turned in hue, saturated or greyed.

    Arguments:
        n: Views an image.
        size: Side of a view in pixels; None keeps the height and width of the images.
        scale: Smallest and largest area of a crop, as a share of the image.
        ratio: Smallest and largest width of a crop over its height, uniform in the logarithm. With ``scale`` and ``ratio``
            both (1, 1) square images are not cropped.
        flip: Probability of a mirror image.
        jitter: Strength s of brightness, contrast, saturation (a factor from 1 - s to 1 + s) and hue (-s to s of a turn).
        jitter_p: Probability of the jitter.
        grey: Probability of a grey view.
        blur: Probability of a Gaussian blur, in a window of about a tenth of the view (23 pixels of 224, 3 of 32).
        blur_sigma: Smallest and largest standard deviation of the blur, in pixels of the view.
        solarise: Probability that values from 1/2 on are inverted.
        record: Whether ``Views.actions`` holds, for every view, tensors (B,): ``top``, ``left``, ``height``, ``width`` of the
            crop in pixels of the image; ``x`` and ``y`` of its centre and its ``area``, as shares of the image; ``flip``,
            ``jitter``, ``grey``, ``solarise`` (whether); ``brightness``, ``contrast``, ``saturation`` (factors, 1 where
            unchanged), ``hue`` (turns); ``order`` (which of ``JITTER_ORDERS``); ``blur`` (standard deviation in pixels, 0 where
            none).

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> views = Augment(2)(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
        >>> [tuple(v.shape) for v in views.images]
        [(4, 3, 8, 8), (4, 3, 8, 8)]
    """

    n: int = 2
    _: KW_ONLY
    size: int | None = None
    scale: tuple[float, float] = (0.2, 1.0)
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
        if self.n < 1 or (self.size is not None and self.size < 1):
            raise ValueError(f"Augment makes at least 1 view of at least 1 pixel, but got n={self.n}, size={self.size}")
        for name, greatest in (("scale", 1.0), ("ratio", math.inf), ("blur_sigma", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= greatest:
                raise ValueError(f"{name} is (smallest, largest), above 0 and at most {greatest}, but got {(low, high)}")
        if len(self.jitter) != 4 or min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ValueError(
                f"jitter is brightness, contrast, saturation >= 0 and hue from 0 to 0.5 of a turn, but got {self.jitter}"
            )
        each_view(self, self.n)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "Augment":
        """Returns the views of a paper, such as ``Augment.preset("byol", size=64)``; ``changes`` are arguments to replace.

        Raises:
            KeyError: If there is no preset of that name.
        """
        if name not in AUGMENTATIONS:
            raise KeyError(f"there is no preset {name!r}; there are {', '.join(AUGMENTATIONS)}")
        return cls(**AUGMENTATIONS[name] | changes)

    def __call__(self, pixels: Tensor, index: Tensor) -> Views:
        """Returns the views, float (B, C, size, size) in [0, 1], of uint8 pixels (B, C, H, W)."""
        check_pixels(pixels, index)
        return self.at_size(pixels, index, (self.size, self.size) if self.size else tuple(pixels.shape[2:]))

    @torch.no_grad()
    def at_size(self, pixels: Tensor, index: Tensor, size: tuple[int, int]) -> Views:
        """Returns the views at another height and width than ``self.size``."""
        b, c, *side = pixels.shape
        chances = each_view(self, self.n)
        boxes = random_boxes(self.n * b, side, self.scale, self.ratio, pixels.device)
        actions = [self._draw(chance, [t[v * b : (v + 1) * b] for t in boxes]) for v, chance in enumerate(chances)]
        orders = [int(torch.randint(len(JITTER_ORDERS), ())) for _ in actions]  # by the host: no device is waited for
        images = [torch.empty(b, c, *size, device=pixels.device) for _ in actions]
        for rows in portions(b, c * math.prod(size), pixels.device):
            columns = transposed(pixels[rows])
            for image, action, order, chance in zip(images, actions, orders, chances, strict=True):
                self._make(columns, {k: v[rows] for k, v in action.items()}, JITTER_ORDERS[order], chance, out=image[rows])
        if not self.record:
            return Views(images, index)
        for action, order in zip(actions, orders, strict=True):
            action["order"] = torch.full((b,), order, device=pixels.device)
            action["x"] = (action["left"] + action["width"] / 2) / side[1]
            action["y"] = (action["top"] + action["height"] / 2) / side[0]
            action["area"] = action["height"] * action["width"] / math.prod(side)
        return Views(images, index, actions)

    def _draw(self, chance: dict[str, float], box: Sequence[Tensor]) -> dict[str, Tensor]:
        action = dict(zip(("top", "left", "height", "width"), box, strict=True))
        draws = torch.rand(10, len(box[0]), device=box[0].device)
        action["flip"] = draws[0] < chance["flip"]
        action["jitter"] = draws[1] < chance["jitter_p"]
        for name, strength, u in zip(JITTER, self.jitter, draws[2:6], strict=True):
            low, high, same = (-strength, strength, 0.0) if name == "hue" else (max(0.0, 1 - strength), 1 + strength, 1.0)
            action[name] = torch.where(action["jitter"], low + (high - low) * u, same)
        action["grey"] = draws[6] < chance["grey"]
        low, high = self.blur_sigma
        action["blur"] = torch.where(draws[7] < chance["blur"], low + (high - low) * draws[8], 0.0)
        action["solarise"] = draws[9] < chance["solarise"]
        return action

    def _make(
        self, columns: Tensor, action: dict[str, Tensor], order: Sequence[str], chance: dict[str, float], *, out: Tensor
    ) -> None:
        """Writes one view of a portion of a batch, given by its columns, to ``out``."""
        groups = Groups(action["jitter"], action["grey"])
        action = {name: groups.order(values) for name, values in action.items()}
        down = taps(action["top"], action["height"], out.shape[2], longest=columns.shape[3])
        across = taps(action["left"], action["width"], out.shape[3], longest=columns.shape[2], mirrored=action["flip"])
        x = weigh(columns, down, across, groups.images).clamp_(max=1)
        part = x[groups.first]
        for name in order if chance["jitter_p"] else ():
            if self.jitter[tuple(JITTER).index(name)]:
                JITTER[name](part, action[name][groups.first], out=part)
        if chance["grey"] and x.shape[1] == 3:
            part = x[groups.second]
            greyscale(part, None if groups.known else action["grey"], out=part)
        if chance["blur"]:
            kernel = max(3, x.shape[2] // 20 * 2 + 1)
            x = on_some(x, action["blur"] > 0, lambda part, rows: blur(part, action["blur"][rows], kernel=kernel))
        if chance["solarise"]:
            x = on_some(x, action["solarise"], lambda part, rows: solarise(part, part.new_full((len(part),), 0.5)))
        groups.restore(x, out)


def each_view(settings: Any, n: int) -> list[dict[str, float]]:
    """Returns the probabilities of each of ``n`` views by name, of settings that give one number or ``n``.

    Raises:
        ValueError: If there is another number of them, or one is no probability.
    """
    columns = []
    for name in CHANCES:
        value = getattr(settings, name)
        values = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)] * n
        if len(values) != n or not all(0 <= v <= 1 for v in values):
            raise ValueError(f"{name} is a probability from 0 to 1, or one for each of the {n} views, but got {value}")
        columns.append(values)
    return [dict(zip(CHANCES, view, strict=True)) for view in zip(*columns, strict=True)]
