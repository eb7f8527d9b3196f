r"""Inversion without a decoder: pixels are moved until a layer says of them what it said of an image.

A second opinion beside a denoiser's samples, which draw on what images look like. Here nothing is known of that but a prior
of smoothness (``"pixels"``), or what augmented copies must all agree in (``"plug-in"``). What both show is in h.

.. math:: \min_{x \in [0, 1]} \frac{\lVert \varphi(T x) - h \rVert^2}{\lVert h \rVert^2} + \lambda \, \frac{1}{CHW} \sum
          \lVert \nabla x \rVert^2

with T drawn anew in each step, a shift by up to a sixteenth of the side, around which the image is wrapped. ``"pixels"`` has
:math:`\lambda > 0`. ``"plug-in"`` has none; T shifts the colours of several copies too, :math:`\sigma_c x_c + \mu_c`, whose
losses are averaged; and the image grows in seven stages, from a quarter of its side by eighths: half of the growth enlarges
what is there (zoom), half surrounds it by noise (centering).

What is simpler than the papers: the box [0, 1] stands for the first one's penalty of large values, and Adam for its descent with
momentum. The second inverts classes, by networks that take images of any size: here the image in the making is enlarged to the
size that the model knows; and place and colours shift by less (there a seventh of the side, and a strength of 1), since a
representation holds both, and a class does not.

References:
    Understanding Deep Image Representations by Inverting Them (Mahendran and Vedaldi, 2015), https://arxiv.org/abs/1412.0035
    Plug-In Inversion: Model-Agnostic Inversion for Vision with Data Augmentations (Ghiasi et al., 2022),
    https://arxiv.org/abs/2201.12961, and the authors' code
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from workbench.generate.pixels import reading
from workbench.generate.representations import Representation, record
from workbench.objectives.base import one_of

__all__ = ["INVERSIONS", "Inverted", "invert", "inverting"]

INVERSIONS = {  # shares: of the side, stage by stage; noise: what the start varies by, about grey
    "pixels": {"shares": (1.0,), "noise": 0.1, "smooth": 10.0, "jitter": 1 / 16, "colour": 0.0, "copies": 1, "lr": 0.05},
    "plug-in": {
        "shares": tuple(k / 8 for k in range(2, 9)),
        "noise": 1.0,
        "smooth": 0.0,
        "jitter": 1 / 16,
        "colour": 0.05,
        "copies": 8,
        "lr": 0.05,
    },
}
EVERY = 10  # steps between two looks


class Inverted(NamedTuple):
    r"""``images`` (N, C, H, W) in [0, 1], the relative ``distance`` (N,) of what the layer says of them,
    :math:`\lVert \varphi(x) - h \rVert / \lVert h \rVert`, and after how many ``steps``."""

    images: Tensor
    distance: Tensor
    steps: int


def invert(
    model: nn.Module,
    h: Representation | Float[Tensor, "n d"],
    layer: str,
    *,
    image_size: int,
    steps: int = 400,
    method: str = "pixels",
    progress: bool = True,
    **settings: Any,
) -> Inverted:
    """Returns images of which a layer says nearly h, and how nearly.

    All are worked on together; interrupted (Ctrl-C, or a notebook's stop), it gives them as they are by then. An image is
    the same whatever it is inverted beside: all start from the same noise and are moved alike.

    Arguments:
        model: Any encoder; it is read in evaluation mode and left as it was.
        h: (N, D).
        layer: A module path, that of h.
        image_size: In pixels.
        steps: In all; those of ``"plug-in"`` are divided among its seven stages.
        method: ``"pixels"`` or ``"plug-in"``.
        progress: Whether to show a bar, with the median distance.
        settings: Of :func:`inverting`.

    Raises:
        TypeError, KeyError, ValueError: As of :func:`inverting`.

    Example:
        >>> images, model = wb.garments(2), wb.build_encoder("convnet", "8", width=8)
        >>> h = wb.represent(model, images, "backbone")
        >>> found = invert(model, h, "backbone", image_size=32, steps=50, progress=False)
        >>> found.images.shape, bool((found.distance < 0.5).all())
        (torch.Size([2, 3, 32, 32]), True)
    """
    found = None
    with tqdm(total=steps, desc=f"inversion, {method}", unit="step", disable=not progress, leave=False) as bar:
        try:
            for found in inverting(model, h, layer, image_size=image_size, steps=steps, method=method, **settings):
                bar.set_postfix(distance=f"{found.distance.median():.3f}", refresh=False)
                bar.update(found.steps - bar.n)
        except KeyboardInterrupt:
            if found is None:
                raise
    return found


def inverting(
    model: nn.Module,
    h: Representation | Float[Tensor, "n d"],
    layer: str,
    *,
    image_size: int,
    steps: int = 400,
    method: str = "pixels",
    channels: int | None = None,
    smooth: float | None = None,
    jitter: float | None = None,
    colour: float | None = None,
    copies: int | None = None,
    lr: float | None = None,
    tokens: str = "mean",
    seed: int = 0,
    batch_size: int = 256,
) -> Iterator[Inverted]:
    """Does what :func:`invert` does, bit by bit: yields the images every ten steps, the first time before any; stop to stop.

    Arguments:
        model, h, layer, image_size, steps, method: As of :func:`invert`.
        channels: Of the images; by default those of the backbone, or 3.
        smooth: The prior's weight, lambda; by default that of the method, as all below (``wb.INVERSIONS``).
        jitter: Largest shift, as a share of the side.
        colour: Strength s of the colours' shift: mu is uniform from -s to s, sigma is e to such a number. The paper's is 1.
        copies: Augmented copies whose losses are averaged.
        lr: Of Adam, as a share of the pixels' range; it falls to 0 by a cosine in each stage.
        tokens: As of :func:`extract`.
        seed: Of the noise at the start, and of what is drawn in each step.
        batch_size: Images and copies that are in memory at a time; results do not change but for rounding.

    Raises:
        TypeError: If the model is no torch module, or h neither a tensor nor a :class:`Representation`.
        KeyError: If the model has no such layer.
        ValueError: If h is of another width, model or layer, or not finite, or a setting lies outside its range.
    """
    chosen = dict(INVERSIONS[one_of("method", method, tuple(INVERSIONS))])
    given = {"smooth": smooth, "jitter": jitter, "colour": colour, "copies": copies, "lr": lr}
    chosen |= {name: value for name, value in given.items() if value is not None}
    _check(chosen, {"image_size": image_size, "steps": steps})
    target = _target(h, model, layer, tokens).detach().float().cpu()
    scale = target.square().sum(1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    channels = channels or getattr(getattr(model, "backbone", model), "channels", 3)
    draws = torch.Generator().manual_seed(seed)
    portion = max(batch_size // chosen["copies"], 1)
    sizes = sorted({max(round(share * image_size), 1) for share in chosen["shares"]})
    ends = [round(steps * (k + 1) / len(sizes)) for k in range(len(sizes))]

    def look(x: Tensor, step: int) -> Inverted:
        shown = _sized(x, image_size)
        with torch.no_grad(), reading(model, layer, tokens=tokens) as read:
            said = torch.cat([read(part) for part in shown.split(batch_size)])
        if said.shape[1] != target.shape[1]:
            raise ValueError(
                f"the layer {layer!r} gives {said.shape[1]} dimensions, but h has {target.shape[1]}; name the layer that h is of"
            )
        return Inverted(shown.clone(), ((said - target).square().sum(1) / scale).sqrt(), step)

    x, step = None, 0
    for size, end in zip(sizes, ends, strict=True):
        x = _canvas(x, size, len(target), channels, draws, chosen["noise"])
        if step == 0:
            yield look(x, 0)
        optimiser = torch.optim.Adam([x], lr=chosen["lr"], betas=(0.5, 0.99))
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(end - step, 1))
        while step < end:
            with torch.enable_grad(), reading(model, layer, tokens=tokens) as read:
                burst = min(EVERY, end - step)
                for _ in range(burst):
                    move = _move(chosen, image_size, channels, draws)
                    slopes = []
                    for rows in torch.arange(len(x)).split(portion):
                        part = x[rows].requires_grad_()
                        said = read(move(_sized(part, image_size))).unflatten(0, (chosen["copies"], len(rows)))
                        loss = ((said - target[rows]).square().sum(2) / scale[rows]).mean(0) + chosen["smooth"] * _rough(part)
                        slopes += torch.autograd.grad(loss.sum(), part)  # a sum, so that an image's slope is its own
                    x.grad = torch.cat(slopes)
                    optimiser.step()
                    falling.step()
                    x.clamp_(0, 1)
            step += burst
            yield look(x, step)


def _canvas(x: Tensor | None, size: int, n: int, channels: int, draws: torch.Generator, amount: float) -> Tensor:
    """Returns noise, the same for every image, and in its middle the images so far, enlarged by half of the growth."""
    drawn = torch.rand(1, channels, size, size, generator=draws)
    noise = (0.5 + amount * (drawn - 0.5)).repeat(n, 1, 1, 1)
    if x is None:
        return noise
    inner = (x.shape[2] + size) // 2
    edge = (size - inner) // 2
    noise[:, :, edge : edge + inner, edge : edge + inner] = _sized(x, inner)
    return noise


def _sized(x: Tensor, size: int) -> Tensor:
    if x.shape[2] == size:
        return x
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def _move(chosen: dict[str, Any], image_size: int, channels: int, draws: torch.Generator) -> Any:
    """Returns what moves images (B, C, H, W) to (copies * B, C, H, W), drawn once and the same for all of them."""
    reach, copies = round(chosen["jitter"] * image_size), chosen["copies"]
    shift = (torch.randint(2 * reach + 1, (2,), generator=draws) - reach).tolist()
    mean, log_std = chosen["colour"] * (2 * torch.rand(2, copies, 1, channels, 1, 1, generator=draws) - 1)

    def move(x: Tensor) -> Tensor:
        x = x.roll(shift, (2, 3))
        return x if not chosen["colour"] and copies == 1 else (x * log_std.exp() + mean).flatten(0, 1)

    return move


def _rough(x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Total variation of exponent 2: squared differences of neighbours, summed, over the number of values."""
    return (x.diff(dim=2).square().sum((1, 2, 3)) + x.diff(dim=3).square().sum((1, 2, 3))) / x[0].numel()


def _target(h: Representation | Tensor, model: nn.Module, layer: str, tokens: str) -> Tensor:
    h = h if isinstance(h, Representation) else Representation(h)
    if h.values.ndim != 2:
        raise ValueError(f"images are looked for of one vector each, (N, D), but got tokens {tuple(h.values.shape)}")
    if not torch.isfinite(h.values).all():
        raise ValueError("images are looked for of finite representations, but some of these rows hold NaN or infinity")
    known = record(model, layer, tokens) if isinstance(model, nn.Module) else {}
    differ = [f"{k} {h.source[k]!r} instead of {v!r}" for k, v in known.items() if h.source.get(k, v) != v]
    if differ:
        raise ValueError(f"h is not of this model and layer: {'; '.join(differ)}. Invert it by those that it was taken of.")
    return h.values


def _check(chosen: dict[str, Any], whole: dict[str, int]) -> None:
    for name, value in {**whole, "copies": chosen["copies"]}.items():
        if isinstance(value, bool) or value != int(value) or value < 1:
            raise ValueError(f"{name} is a whole number of at least 1, but got {value!r}")
    ranges = {"smooth": (0, float("inf")), "jitter": (0, 1), "colour": (0, float("inf")), "lr": (0, 1)}
    for name, (low, high) in ranges.items():
        if not low <= chosen[name] <= high:
            raise ValueError(f"{name} is from {low} to {high}, but got {chosen[name]}")
