r"""Scenes: a lit solid on the floor of a room, drawn here by casting rays, on every point of a grid of seven factors.

After 3D Shapes (Burgess and Kim, 2018), which has six of these factors; here the light moves too, and solids, sizes and all
other values are yours to choose.

A solid is what lies between the floor and its height H within a section that depends on the height y,

.. math:: x^2 + z^2 \le a + b y + c y^2 \quad\text{(round)} \qquad\text{or}\qquad |x|, |z| \le a + b y \quad\text{(square)},

so that a ray o + t d is inside of it for one interval of t, whose ends are the roots of a quadratic or the quotients of planes.
A point in the room is in the shadow as far as the ray from it to the light lies inside of the solid: that length, over
:data:`SOFT`, is how dark it is. Surfaces are shaded by Lambert's cosine, the solid has Blinn's highlight too, and corners of
the room and the floor round the solid are darkened. A pixel is the mean of four rays where the solid is; the edges of the room
are smoothed by how far they are from the pixel.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.data.drawing import grid, rgb, whole
from workbench.data.gridded import GridRenderer, around, pictured, spread
from workbench.data.images import Images

__all__ = ["SOLIDS", "SceneRenderer", "scenes"]

EYE = (0.0, 2.6, -6.0)  # the camera, in units of a solid of size 1; y is up, and the solid stands round (0, 0, 0)
AIM = (0.0, 0.85, 0.0)
VIEW = 0.28  # tangent of half the angle of view
ROOM = 2.4  # from the middle to either wall
LIGHT = 42.0  # degrees, height of the light
SOFT = 0.5
PIXELS = 2**16  # drawn at once on a CPU: what stays in its cache


class Solid(NamedTuple):
    """A solid of size 1: its section's kind, its height, and the coefficients of its section."""

    section: str
    height: float
    a: float
    b: float = 0.0
    c: float = 0.0


SOLIDS: dict[str, Solid] = {
    "cube": Solid("square", 1.5, 0.75),
    "cylinder": Solid("round", 1.7, 0.75**2),
    "sphere": Solid("round", 2.0, 0.0, 2.0, -1.0),
    "cone": Solid("round", 2.0, 1.0, -1.0, 0.25),
    "pyramid": Solid("square", 1.9, 0.9, -0.9 / 1.9),
}


def scenes(
    n: int | None = 10_000,
    *,
    size: int = 32,
    seed: int = 0,
    solids: Sequence[str] = ("cube", "cylinder", "sphere", "cone", "pyramid"),
    sizes: int = 6,
    hues: int = 8,
    floor_hues: int = 8,
    wall_hues: int = 8,
    orientations: int = 15,
    lights: int = 5,
) -> Images:
    """Returns scenes (uint8, 3 ``size`` ``size``) from a grid of seven factors.

    Arguments:
        n: How many different points of the grid, at random; None for the whole grid in order, which by default has
            5 x 6 x 8 x 8 x 8 x 15 x 5 = 1,152,000 points. More than 256 MiB of pixels are drawn when they are asked for;
            ``.to("cpu")`` draws and keeps them all.
        size: Side of the images in pixels.
        seed: Which random points.
        solids: Names of :data:`SOLIDS`.
        sizes, hues, floor_hues, wall_hues, orientations, lights: How many values each factor takes. With 4 solids, 8 sizes, 10
            of each hue, 15 orientations and 1 light, the grid has the 480,000 points of 3D Shapes.

    Factors: ``label``, the number of the solid among ``solids``, and ``solid``, its name; ``size`` (.65 to 1.1); ``hue`` of the
    solid, ``floor_hue`` and ``wall_hue`` (0 to 1, periodic); ``orientation`` (-30 to 30) in degrees, by which room and solid
    turn under the camera; ``light`` (-70 to 70) in degrees, from the left of the camera to its right. :func:`factor_numbers`
    gives them as whole numbers, which measures of disentanglement want.

    Raises:
        ValueError: If the grid has fewer than ``n`` points, a solid is unknown, or a number is too small.

    Example:
        >>> images = scenes(None, sizes=2, hues=2, floor_hues=1, wall_hues=1, orientations=3, lights=1)
        >>> len(images), wb.factor_numbers(images).nunique().to_dict()
        (60, {'label': 5, 'size': 2, 'hue': 2, 'orientation': 3})
    """
    whole(n=1 if n is None else n, size=size, seed=seed)
    counts = {"sizes": sizes, "hues": hues, "floor_hues": floor_hues, "wall_hues": wall_hues}
    counts |= {"orientations": orientations, "lights": lights}
    renderer = SceneRenderer(size=size, solids=tuple(solids), **counts)
    factors = renderer.points(n, seed)
    factors.insert(1, "solid", np.array(renderer.solids)[factors["label"]])
    recipe = {"is": "workbench.data.stage:scenes", "n": n, "size": size, "seed": seed, "solids": list(solids), **counts}
    return Images(pictured(renderer, factors), factors, "scenes", recipe=recipe, renderer=renderer)


class SceneRenderer(GridRenderer):
    """Draws scenes from their factors, a batch in one pass, on the device of the factors; edges are anti-aliased.

    The arguments are those of :func:`scenes`. ``grid`` holds the values of each factor; other values may be drawn too.
    """

    def __init__(
        self,
        *,
        size: int = 32,
        solids: Sequence[str] = ("cube", "cylinder", "sphere", "cone", "pyramid"),
        sizes: int = 6,
        hues: int = 8,
        floor_hues: int = 8,
        wall_hues: int = 8,
        orientations: int = 15,
        lights: int = 5,
    ) -> None:
        unknown = [name for name in solids if name not in SOLIDS]
        if unknown or not solids:
            raise ValueError(f"the solids are {list(SOLIDS)}, but got {list(solids)}")
        counts = {"sizes": sizes, "hues": hues, "floor_hues": floor_hues, "wall_hues": wall_hues}
        counts |= {"orientations": orientations, "lights": lights}
        whole(size=size, **counts)
        for name, count in (counts | {"size": size // 8}).items():
            if count < 1:
                raise ValueError(
                    f"a grid has at least 1 value of each factor and images at least 8x8 pixels; {name} is too small"
                )
        self.size, self.solids = size, tuple(solids)
        self.grid = {
            "label": tuple(range(len(solids))),
            "size": spread(0.65, 1.1, sizes),
            "hue": around(1, hues),
            "floor_hue": around(1, floor_hues),
            "wall_hue": around(1, wall_hues),
            "orientation": spread(-30, 30, orientations),
            "light": spread(-70, 70, lights),
        }

    def __call__(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Returns pixels in [0, 1], float (n, 3, size, size).

        Raises:
            KeyError: If a factor is missing.
        """
        f = self.chosen(factors, "scenes")  # n 1 1
        label = factors["label"].long()
        pixels = torch.empty(len(label), 3, self.size, self.size, device=label.device)
        at_once = max(1, PIXELS // self.size**2) if label.device.type == "cpu" else max(1, len(label))
        for section in ("round", "square"):
            of_section = torch.tensor([SOLIDS[name].section == section for name in self.solids], device=label.device)
            for rows in of_section[label].nonzero()[:, 0].split(at_once):
                pixels.index_copy_(0, rows, self._draw(label[rows], {k: v[rows] for k, v in f.items()}, section))
        return pixels

    def _draw(self, label: Tensor, f: Mapping[str, Tensor], section: str) -> Tensor:
        """Returns pixels (n, 3, size, size) of solids of one kind of section."""
        kinds = torch.tensor([SOLIDS[name][1:] for name in self.solids], device=label.device)[label, :, None, None]
        solid = Standing(section, *kinds.unbind(1), f["size"], torch.deg2rad(f["orientation"]))
        side, up = torch.deg2rad(f["light"]), math.radians(LIGHT)
        light = (side.sin() * math.cos(up), torch.full_like(side, math.sin(up)), -side.cos() * math.cos(up))
        ray = rays(2 * self.size, str(label.device))
        room = self._room(solid, f, light).clamp_(0, 1).sqrt_()
        enter, leave = solid.crossing(EYE, ray)
        hit = (enter < leave).flatten().nonzero()[:, 0]
        i = hit // ray[0].numel()
        at = hit - i * ray[0].numel()
        one = solid.of(i)
        t = enter.flatten().index_select(0, hit) * one.size
        across, to_light = ([v.flatten().index_select(0, k) for v in vector] for vector, k in ((ray, at), (light, i)))
        paint = rgb(f["hue"], torch.full_like(side, 0.8), torch.full_like(side, 0.95)).flatten(1).index_select(0, i) ** 2
        seen = shade(one, t, across, to_light, paint).clamp_(0, 1).sqrt_()
        shown = self._gathered(F.pad(seen, (0, 1), value=1.0), i, at, len(label))
        return shown[:, :3] + (1 - shown[:, 3:]) * room

    def _gathered(self, seen: Tensor, i: Tensor, at: Tensor, n: int) -> Tensor:
        """Returns pixels (n, c, size, size), each the mean over its four rays of what these saw (m, c), or 0 if nothing.

        Rays are numbered by their image ``i`` (m) and their place ``at`` (m) in it.
        """
        places = torch.arange(self.size**2, device=at.device).view(self.size, 1, self.size, 1)
        pixel = places.expand(-1, 2, -1, 2).flatten().index_select(0, at) + i * self.size**2
        sums = torch.zeros(n * self.size**2, seen.shape[1], device=at.device).index_add_(0, pixel, seen / 4)
        return sums.view(n, self.size, self.size, seen.shape[1]).permute(0, 3, 1, 2)

    def _room(self, solid: "Standing", f: Mapping[str, Tensor], light: "Vector") -> Tensor:
        """Returns the light (n, 3, size, size) that comes from floor and walls: one ray a pixel.

        The inverse distances to the planes are linear across the image, so that the distance of a pixel to the edge between two
        is their difference over its slope.
        """
        ray = rays(self.size, str(light[0].device), unit=False)
        turn = torch.deg2rad(f["orientation"])
        facing = [((turn + s * math.pi / 4).sin(), (turn + s * math.pi / 4).cos()) for s in (1, -1)]  # walls, outwards
        floor = -ray[1] / EYE[1]
        walls = [(ray[0] * x + ray[2] * z) / (ROOM - EYE[0] * x - EYE[2] * z) for x, z in facing]
        second = _beyond(walls[1] - walls[0])
        wall = torch.maximum(*walls)
        on_floor = _beyond(floor - wall)
        near = 1 / torch.maximum(floor, wall)
        point = [o + near * d for o, d in zip(EYE, ray, strict=True)]
        apart = [point[1], *(ROOM - point[0] * x - point[2] * z for x, z in facing)]
        corner = math.prod((a.clamp(min=0) + 0.1) / (a.clamp(min=0) + 0.17) for a in apart) * 1.7
        lit = [-(x * light[0] + z * light[2]).clamp(max=0) for x, z in facing]
        cosine = torch.lerp(torch.lerp(lit[0], lit[1], second), light[1], on_floor)
        enter, leave = solid.crossing(point, light)
        dark = (leave - enter.clamp(min=0)).clamp(0, SOFT) / SOFT
        to = [point[0], 0.8 * solid.size - point[1], point[2]]
        square = sum(a * a for a in to)
        below = 0.64 * solid.size**2 * to[1].clamp(min=0) / (square * square.sqrt())
        brightness = 0.5 * corner * (1 - on_floor * below.clamp(max=0.8)) + 0.6 * cosine * (1 - dark)
        flat = torch.ones_like(turn)
        ground = rgb(f["floor_hue"], 0.5 * flat, 0.85 * flat) ** 2
        paint = rgb(f["wall_hue"], 0.35 * flat, 0.92 * flat) ** 2
        return torch.lerp(paint, ground, on_floor.unsqueeze(1)) * brightness.unsqueeze(1)


Vector = Sequence[Tensor | float]


@dataclass(frozen=True)
class Standing:
    """Solids of one kind of section as they stand in the room: size, turn in radians, and what :class:`Solid` names."""

    section: str
    height: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    size: Tensor
    turn: Tensor

    def of(self, i: Tensor) -> "Standing":
        """Returns the solids of numbers ``i`` (m), one a ray."""
        values = (self.height, self.a, self.b, self.c, self.size, self.turn)
        return Standing(self.section, *(v.flatten().index_select(0, i) for v in values))

    def crossing(self, point: Vector, ray: Vector) -> tuple[Tensor, Tensor]:
        """Returns where rays from points enter and leave, in lengths of the ray times the size; no crossing leaves first."""
        x, y, z = self._own([p / self.size for p in point])
        dx, dy, dz = self._own(ray)
        floor, top = -y / dy, (self.height - y) / dy
        enter, leave = torch.minimum(floor, top), torch.maximum(floor, top)
        if self.section == "round":
            u = dx * dx + dz * dz - self.c * (dy * dy)
            v = dy * (self.b / 2 + self.c * y) - x * dx - z * dz
            w = x * x + z * z - self.a - y * (self.b + self.c * y)
            root = (v * v - u * w).clamp(min=0).sqrt()  # a ray that passes by enters where it leaves
            return torch.maximum(enter, (v - root) / u), torch.minimum(leave, (v + root) / u)
        for p, d in ((x, dx), (-x, -dx), (z, dz), (-z, -dz)):
            over, grows = p - self.a - self.b * y, d - self.b * dy + 1e-7  # never 0: along a side
            at = -over / grows
            enter = torch.maximum(
                enter, at - (grows * 1e30).clamp(0, 1e9)
            )  # an end is that of its side only: the other goes to 1e9
            leave = torch.minimum(leave, at - (grows * 1e30).clamp(-1e9, 0))
        return enter, leave

    def normal(self, point: Vector) -> list[Tensor]:
        """Returns the directions, of length 1, in which the surface looks at points on it."""
        x, y, z = self._own([p / self.size for p in point])
        if self.section == "round":
            across = [x, -(self.b / 2 + self.c * y), z]
        else:
            first = x.abs() > z.abs()
            across = [torch.where(first, x.sign(), 0), -self.b, torch.where(first, 0, z.sign())]
        top = y > self.height - 1e-3
        across = [torch.where(top, up, a) for up, a in zip((0.0, 1.0, 0.0), across, strict=True)]
        length = sum(a * a for a in across).sqrt()
        return [a / length for a in self._own(across, back=-1)]

    def _own(self, vector: Vector, back: int = 1) -> Vector:
        """Returns a vector as seen from the solid, which turns with the room; of round ones the turn cannot be seen."""
        if self.section == "round":
            return vector
        x, y, z = vector
        cos, sin = self.turn.cos(), back * self.turn.sin()
        return [x * cos - z * sin, y, x * sin + z * cos]


def shade(solid: Standing, t: Tensor, ray: Vector, light: Vector, colour: Tensor) -> Tensor:
    """Returns the light (m, 3) that comes from solids of a colour (m, 3) where rays hit them after the length t."""
    point = [o + t * d for o, d in zip(EYE, ray, strict=True)]
    normal = solid.normal(point)
    cosine = sum(a * b for a, b in zip(normal, light, strict=True)).clamp(min=0)
    between = [a - b for a, b in zip(light, ray, strict=True)]
    shine = sum(a * b for a, b in zip(normal, between, strict=True)).clamp(min=0) ** 2 / sum(a * a for a in between)
    low = (point[1] / solid.size).clamp(0, 0.5) + 0.5
    body = (0.3 + 0.15 * normal[1]) * low + 0.85 * cosine
    gloss = 0.35 if solid.section == "round" else 0.0  # a flat side would shine all over
    return colour * body.unsqueeze(1) + gloss * shine.unsqueeze(1) ** 24


def _beyond(linear: Tensor) -> Tensor:
    """Returns the share of each pixel in which what is linear across the image is positive."""
    slopes = [(linear.roll(-1, k) - linear).narrow(k, 0, 1).narrow(3 - k, 0, 1) for k in (1, 2)]
    return (0.5 + linear / (slopes[0] ** 2 + slopes[1] ** 2).sqrt()).clamp(0, 1)


@functools.lru_cache(maxsize=8)
def rays(count: int, device: str, *, unit: bool = True) -> tuple[Tensor, ...]:
    """Returns the directions of the camera's rays, three of (1, count, count), of length 1 or linear across the image."""
    forward = np.subtract(AIM, EYE) / np.linalg.norm(np.subtract(AIM, EYE))
    right = np.array([1.0, 0.0, 0.0])
    up = np.cross(forward, right)
    u, v = grid(count, torch.device(device))
    along = [float(forward[k]) + VIEW * (float(right[k]) * u - float(up[k]) * v) for k in range(3)]
    length = sum(a * a for a in along).sqrt() if unit else 1.0
    return tuple((a + 0 * u + 0 * v) / length for a in along)
