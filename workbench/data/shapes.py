"""Sprites: flat shapes without rotational symmetry, on every point of a grid of factors, drawn here.

After dSprites (Matthey, Higgins, Hassabis and Lerchner, 2017), which is black and white and whose square and ellipse look the
same after a quarter or half turn, so that their orientation cannot be told from the image. Here every shape has one
orientation only, and shape and ground have a hue each.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.data.drawing import grid, rgb, whole
from workbench.data.gridded import GridRenderer, around, pictured, spread
from workbench.data.images import Images

__all__ = ["SHAPES", "SpriteRenderer", "sprites"]

TABLE = 96  # cells across the table of distances
EXTENT = 1.5  # the table reaches so far from the centre; a shape reaches 1


def sprites(
    n: int | None = 10_000,
    *,
    size: int = 32,
    seed: int = 0,
    shapes: Sequence[str] = ("heart", "arrow", "ell", "crescent", "drop"),
    scales: int = 6,
    orientations: int = 24,
    positions: int = 16,
    hues: int = 8,
    background_hues: int = 8,
) -> Images:
    """Returns sprites (uint8, 3 ``size`` ``size``) from a grid of seven factors.

    Arguments:
        n: How many different points of the grid, at random; None for the whole grid in order, which by default has
            5 x 6 x 24 x 16 x 16 x 8 x 8 = 11,796,480 points, whose table alone takes 1 GB: make it coarser first. More than
            256 MiB of pixels are drawn when they are asked for; ``.to("cpu")`` draws and keeps them all.
        size: Side of the images in pixels.
        seed: Which random points.
        shapes: Names of :data:`SHAPES`.
        scales, orientations, positions, hues, background_hues: How many values each factor takes; ``positions`` is for both
            x and y.

    Factors: ``label``, the number of the shape among ``shapes``, and ``shape``, its name; ``scale``, its diameter in image
    sides (.4 to .64); ``orientation`` in degrees counter-clockwise (0 to 360, periodic); ``x`` and ``y``, its shift to the right
    and down in image sides (-.18 to .18); ``hue`` and ``background_hue`` (0 to 1, periodic). :func:`factor_numbers` gives them
    as whole numbers, which measures of disentanglement want.

    Raises:
        ValueError: If the grid has fewer than ``n`` points, a shape is unknown, or a number is too small.

    Example:
        >>> sprites(None, scales=1, orientations=4, positions=2, hues=1, background_hues=1).pixels.shape
        torch.Size([80, 3, 32, 32])
    """
    whole(n=1 if n is None else n, size=size, seed=seed)
    counts = {"scales": scales, "orientations": orientations, "positions": positions, "hues": hues}
    renderer = SpriteRenderer(size=size, shapes=tuple(shapes), background_hues=background_hues, **counts)
    factors = renderer.points(n, seed)
    factors.insert(1, "shape", np.array(renderer.shapes)[factors["label"]])
    recipe = {"is": "workbench.data.shapes:sprites", "n": n, "size": size, "seed": seed, "shapes": list(shapes), **counts}
    recipe["background_hues"] = background_hues
    return Images(pictured(renderer, factors), factors, "sprites", recipe=recipe, renderer=renderer)


class SpriteRenderer(GridRenderer):
    """Draws sprites from their factors, a batch in one pass, on the device of the factors; edges are anti-aliased.

    The arguments are those of :func:`sprites`. ``grid`` holds the values of each factor; other values may be drawn too.
    """

    def __init__(
        self,
        *,
        size: int = 32,
        shapes: Sequence[str] = ("heart", "arrow", "ell", "crescent", "drop"),
        scales: int = 6,
        orientations: int = 24,
        positions: int = 16,
        hues: int = 8,
        background_hues: int = 8,
    ) -> None:
        unknown = [name for name in shapes if name not in SHAPES]
        if unknown or not shapes:
            raise ValueError(f"the shapes are {list(SHAPES)}, but got {list(shapes)}")
        counts = {"scales": scales, "orientations": orientations, "positions": positions, "hues": hues}
        whole(size=size, background_hues=background_hues, **counts)
        for name, count in (counts | {"background_hues": background_hues, "size": size // 8}).items():
            if count < 1:
                raise ValueError(
                    f"a grid has at least 1 value of each factor and images at least 8x8 pixels; {name} is too small"
                )
        self.size, self.shapes = size, tuple(shapes)
        place = spread(-0.18, 0.18, positions)
        self.grid = {
            "label": tuple(range(len(shapes))),
            "scale": spread(0.4, 0.64, scales),
            "orientation": around(360, orientations),
            "x": place,
            "y": place,
            "hue": around(1, hues),
            "background_hue": around(1, background_hues),
        }

    def __call__(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Returns pixels in [0, 1], float (n, 3, size, size).

        Raises:
            KeyError: If a factor is missing.
        """
        f = self.chosen(factors, "sprites")  # n 1 1
        flat = torch.ones_like(f["hue"])
        sprite = rgb(f["hue"], 0.8 * flat, 0.8 * flat)
        ground = rgb(f["background_hue"], 0.3 * flat, 0.97 * flat)
        return torch.lerp(ground, sprite, self._coverage(factors["label"], f).unsqueeze(1))

    def _coverage(self, label: Tensor, f: Mapping[str, Tensor]) -> Tensor:
        """Returns the share of each pixel (n, size, size) that the shape covers, from the distance to its edge."""
        turn = torch.deg2rad(f["orientation"])
        u, v = grid(self.size, turn.device)
        u, v = (u - 2 * f["x"]) / f["scale"], (v - 2 * f["y"]) / f["scale"]
        at = torch.stack([u * turn.cos() - v * turn.sin(), u * turn.sin() + v * turn.cos()], -1) / EXTENT  # n size size 2
        table = _distances(self.shapes, str(label.device))[label.long()]
        distance = F.grid_sample(table, at, align_corners=False, padding_mode="border")[:, 0]
        return (0.5 - distance * f["scale"] * (self.size / 2)).clamp(0, 1)  # distance in pixels


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    return np.stack([16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], 1)


def _arrow() -> np.ndarray:
    return np.array([[0, -5], [4, -0.5], [1.5, -0.5], [1.5, 5], [-1.5, 5], [-1.5, -0.5], [-4, -0.5]])


def _ell() -> np.ndarray:
    return np.array([[-3, -5], [0, -5], [0, 2], [4, 2], [4, 5], [-3, 5]])


def _crescent() -> np.ndarray:
    tip = 0.3 * math.pi
    outer = np.linspace(tip, 2 * math.pi - tip, 80)
    edge = math.atan2(math.sin(tip), math.cos(tip) - 0.5)  # of the hollow, a circle round (.5, 0) through both tips
    inner = np.linspace(2 * math.pi - edge, edge, 60)[1:-1]
    radius = math.hypot(math.cos(tip) - 0.5, math.sin(tip))
    hollow = np.stack([0.5 + radius * np.cos(inner), radius * np.sin(inner)], 1)
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], 1), hollow])


def _drop() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    return np.stack([1.3 * np.sin(t) * np.sin(t / 2) ** 1.6, -np.cos(t)], 1)


SHAPES: dict[str, Callable[[], np.ndarray]] = {
    "heart": _heart,
    "arrow": _arrow,
    "ell": _ell,
    "crescent": _crescent,
    "drop": _drop,
}


@functools.lru_cache(maxsize=16)
def _distances(shapes: tuple[str, ...], device: str) -> Tensor:
    """Returns the distance to the edge of each shape, negative inside, (shapes, 1, TABLE, TABLE), in units of its radius."""
    return torch.from_numpy(np.stack([_distance(SHAPES[name]()) for name in shapes])).float().unsqueeze(1).to(device)


def _distance(corners: np.ndarray) -> np.ndarray:
    """Returns the signed distance to a polygon (k, 2), moved and scaled so that its furthest corners lie on the unit circle."""
    corners = corners - (corners.max(0) + corners.min(0)) / 2
    corners = corners / np.linalg.norm(corners, axis=1).max()
    at = ((np.arange(TABLE) + 0.5) * (2 / TABLE) - 1) * EXTENT
    x, y = (a[..., None] for a in np.meshgrid(at, at))  # TABLE TABLE 1
    (ax, ay), (bx, by) = corners.T, np.roll(corners, -1, axis=0).T
    along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
    distance = np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)).min(-1)
    crossed = ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / np.where(by == ay, np.inf, by - ay))
    return np.where(crossed.sum(-1) % 2 == 1, -distance, distance)
