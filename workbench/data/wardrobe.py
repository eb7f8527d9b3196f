"""Garments: real photographs of clothes, drawn again under recorded pose, colour, textured background and light.

A garment of Fashion-MNIST with grey values g and silhouette m (its small holes filled) is moved by rotation, scale and shift,
coloured, and laid over a texture that waves between two colours as ``sin(2 pi frequency (u cos angle + v sin angle) + phase)``,
u to the right and v down from the centre, in image sides; light multiplies the whole. Every number of this is a factor.

Plain Fashion-MNIST is too easy to show what a representation learned: raw pixels reach .8 by nearest neighbours. Here they
reach about .25, their first 64 principal components .25, a random convolutional network .21 (cosine, 20 neighbours, 10,000
images to 2,000).
"""

import functools
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.data.drawing import draw, grid, held, rgb, whole
from workbench.data.fashion import FASHION_CLASSES, SIDE, embedded
from workbench.data.images import Images

__all__ = ["GarmentRenderer", "garments"]


def garments(n: int = 10_000, *, split: Literal["train", "test"] = "train", size: int = 32, seed: int = 0) -> Images:
    """Returns ``n`` garments (uint8, 3 ``size`` ``size``), each under its own pose, colour, background and light.

    Each garment of the embedded sample is shown once before any is shown again under other factors. The splits share no
    garment: 10,000 stand behind ``"train"``, 2,000 behind ``"test"``. The first images of a longer set are those of a
    shorter one.

    Factors: ``label`` (0 to 9) and ``class_name``; ``garment``, the row in the embedded sample (train, then test); and the
    nuisances that :class:`GarmentRenderer` lists with their ranges.

    Raises:
        ValueError: If there is no such split, or ``n`` or ``size`` is too small.

    Example:
        >>> images = garments(4)
        >>> images.pixels.shape, bool(images.factors["rotation"].between(-30, 30).all())
        (torch.Size([4, 3, 32, 32]), True)
    """
    if split not in ("train", "test"):
        raise ValueError(f"garments have the splits 'train' and 'test', but got {split!r}")
    whole(n=n, size=size, seed=seed)
    if n < 1:
        raise ValueError(f"at least 1 image is drawn, but n is {n}")
    renderer = GarmentRenderer(size=size)
    base = _wardrobe()[1]
    rows = np.flatnonzero(base["split"] == split)
    stream = 4 * seed + 2 * (split == "test")
    rng = torch.Generator().manual_seed(stream)
    turns = [torch.randperm(len(rows), generator=rng) for _ in range(math.ceil(n / len(rows)))]
    chosen = rows[torch.cat(turns)[:n].numpy()]
    factors = base.iloc[chosen][["label", "class_name"]].reset_index(drop=True)
    factors["garment"] = chosen
    drawn = renderer.sample(n, generator=torch.Generator().manual_seed(stream + 1))
    factors = factors.assign(**{name: values.numpy() for name, values in drawn.items()})
    recipe = {"is": "workbench.data.wardrobe:garments", "n": n, "split": split, "size": size, "seed": seed}
    return Images(draw(renderer, factors), factors, f"garments_{split}", recipe=recipe, renderer=renderer)


class GarmentRenderer:
    """Draws garments from their factors, a batch in one pass, on the device of the factors.

    Arguments:
        size: Side of the square images, at least 8.

    Factors: ``garment``, the row in the embedded sample, says what is drawn, and the nuisances say how:

    =====================  ==========  ===========================================================================
    rotation               -30 to 30   degrees, counter-clockwise
    scale                  .65 to 1    1 lets the 28x28 photograph fill the image
    x, y                   -1/8 to 1/8 shift to the right and down, in image sides
    hue                    0 to 1      of the garment
    saturation             .2 to .9    of the garment
    value                  .7 to 1     brightness of the garment
    background_hue         0 to 1      of the texture; its stripes alternate with a darker neighbouring hue
    background_value       .35 to .9   brightness of the texture
    frequency              1 to 5      stripes across the image
    angle                  0 to 180    degrees, direction across the stripes
    phase                  0 to 360    degrees
    light                  .7 to 1.1   brightness of the whole
    light_angle            0 to 360    degrees, the side from which the light comes
    =====================  ==========  ===========================================================================
    """

    ranges = {
        "rotation": (-30.0, 30.0),
        "scale": (0.65, 1.0),
        "x": (-0.125, 0.125),
        "y": (-0.125, 0.125),
        "hue": (0.0, 1.0),
        "saturation": (0.2, 0.9),
        "value": (0.7, 1.0),
        "background_hue": (0.0, 1.0),
        "background_value": (0.35, 0.9),
        "frequency": (1.0, 5.0),
        "angle": (0.0, 180.0),
        "phase": (0.0, 360.0),
        "light": (0.7, 1.1),
        "light_angle": (0.0, 360.0),
    }
    nuisances = tuple(ranges)

    def __init__(self, *, size: int = 32) -> None:
        whole(size=size)
        if size < 8:
            raise ValueError(f"a garment needs at least 8x8 pixels, but size is {size}")
        self.size = size

    def sample(
        self, n: int, *, generator: torch.Generator | None = None, device: str | torch.device = "cpu"
    ) -> dict[str, Tensor]:
        """Returns ``n`` uniform draws of every nuisance, each float (n,)."""
        low, high = held(tuple(self.ranges.values()), str(device)).unbind(1)
        draws = low + (high - low) * torch.rand(n, len(low), generator=generator, device=device)
        return dict(zip(self.ranges, draws.unbind(1), strict=True))

    def __call__(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Returns pixels in [0, 1], float (n, 3, size, size).

        Raises:
            KeyError: If a factor is missing.
        """
        missing = [name for name in ("garment", *self.nuisances) if name not in factors]
        if missing:
            raise KeyError(f"garments are drawn from {['garment', *self.nuisances]}, but {missing} are missing")
        f = {name: factors[name].float()[:, None, None] for name in self.nuisances}  # n 1 1
        grey, inside = self._place(factors["garment"], f)
        garment = rgb(f["hue"], f["saturation"], f["value"] * (0.25 + 0.75 * grey))
        picture = torch.lerp(self._texture(f), garment, inside.unsqueeze(1))
        return (picture * self._light(f).unsqueeze(1)).clamp_(0, 1)

    def _place(self, garment: Tensor, f: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the grey values and the silhouette (n, size, size) of the garments under their pose."""
        turn = torch.deg2rad(f["rotation"])
        u, v = grid(self.size, turn.device)
        u, v = (u - 2 * f["x"]) / f["scale"], (v - 2 * f["y"]) / f["scale"]
        at = torch.stack([u * turn.cos() - v * turn.sin(), u * turn.sin() + v * turn.cos()], -1)  # n size size 2
        base = _on_device(str(garment.device))[garment.long()].float() / 255
        return F.grid_sample(base, at, align_corners=False).unbind(1)

    def _texture(self, f: Mapping[str, Tensor]) -> Tensor:
        """Returns the background (n, 3, size, size)."""
        u, v = grid(self.size, f["angle"].device)
        angle = torch.deg2rad(f["angle"])
        along = (u * angle.cos() + v * angle.sin()) * (math.pi * f["frequency"])
        wave = 0.5 + 0.5 * torch.sin(along + torch.deg2rad(f["phase"]))
        bright = rgb(f["background_hue"], torch.full_like(angle, 0.4), f["background_value"])
        dark = rgb(f["background_hue"] + 0.08, torch.full_like(angle, 0.55), 0.55 * f["background_value"])
        return torch.lerp(dark, bright, wave.unsqueeze(1))

    def _light(self, f: Mapping[str, Tensor]) -> Tensor:
        u, v = grid(self.size, f["light"].device)
        angle = torch.deg2rad(f["light_angle"])
        return f["light"] * (1 + 0.25 * (u * angle.cos() - v * angle.sin()))


@functools.cache
def _wardrobe() -> tuple[Tensor, pd.DataFrame]:
    """Returns grey values and silhouettes (uint8, garments 2 28 28) of the embedded sample, and its table."""
    parts = {split: embedded(split) for split in ("train", "test")}
    grey = torch.cat([pixels for pixels, _ in parts.values()])
    table = pd.concat([table.assign(split=split) for split, (_, table) in parts.items()], ignore_index=True)
    table["class_name"] = np.array(FASHION_CLASSES)[table["label"]]
    mask = torch.from_numpy(_silhouettes(grey[:, 0].numpy())).unsqueeze(1)
    return torch.cat([grey, mask], 1), table


@functools.lru_cache(maxsize=4)
def _on_device(device: str) -> Tensor:
    return _wardrobe()[0].to(device)


def _silhouettes(grey: np.ndarray, *, threshold: int = 12, largest_hole: int = 16) -> np.ndarray:
    """Returns 255 where the garment is: brighter than the black ground, or in a small hole (white prints are black)."""
    from scipy import ndimage

    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    ground, _ = ndimage.label(np.pad(grey <= threshold, ((0, 0), (1, 1), (1, 1)), constant_values=True), in_plane)
    hole = np.bincount(ground.ravel())[ground] <= largest_hole
    return np.where((ground == 0) | hole, 255, 0).astype(np.uint8)[:, 1 : SIDE + 1, 1 : SIDE + 1]
