"""Garments of which the pose alone varies: grey photographs, turned, scaled and shifted over an even, darker ground.

What :func:`workbench.garments` draws with colours, textures and light is hard for a small network in minutes. Here a vision
transformer that saw each image a few times is ahead of an untrained one, and what is left to tell apart is what an object is
from where it lies.
"""

import dataclasses
from typing import Literal

from workbench.data.drawing import draw
from workbench.data.images import Images
from workbench.data.wardrobe import garments

__all__ = ["posed_garments"]

STILL = {
    "hue": 0.0,
    "saturation": 0.0,
    "value": 1.0,
    "background_hue": 0.0,
    "background_value": 0.35,
    "frequency": 0.0,
    "angle": 0.0,
    "phase": -90.0,
    "light": 1.0,
    "light_angle": 0.0,
}
POSE = ["label", "class_name", "garment", "rotation", "scale", "x", "y"]


def posed_garments(n: int = 10_000, *, split: Literal["train", "test"] = "train", size: int = 24, seed: int = 0) -> Images:
    """Returns ``n`` garments (uint8, 1 ``size`` ``size``) in grey on an even ground, each in its own pose.

    Which garment in which pose is that of :func:`workbench.garments` of the same arguments; so are the splits.

    Factors: ``label`` (0 to 9), ``class_name``, ``garment``, and the pose: ``rotation`` in degrees, ``scale``, ``x`` and ``y``,
    of the ranges that :class:`workbench.GarmentRenderer` lists.

    Raises:
        ValueError: As :func:`workbench.garments`.

    Example:
        >>> images = posed_garments(4)
        >>> images.pixels.shape, list(images.factors)[3:]
        (torch.Size([4, 1, 24, 24]), ['rotation', 'scale', 'x', 'y'])
    """
    images = garments(n, split=split, size=size, seed=seed)
    pixels = draw(images.renderer, images.factors.assign(**STILL)).float().mean(1, keepdim=True).round().byte()
    recipe = {"is": "workbench.data.posed:posed_garments", "n": n, "split": split, "size": size, "seed": seed}
    name = f"posed_{images.name}"
    return dataclasses.replace(images, pixels=pixels, factors=images.factors[POSE], name=name, recipe=recipe, renderer=None)
