"""What changes the colour of every pixel by itself: each image of a batch has its own parameter.

Images are float (B, C, H, W) in [0, 1] and stay in [0, 1]; parameters are tensors (B,). Given the same parameters every
function agrees with the function of ``torchvision.transforms.v2.functional`` that its docstring names. With ``out=x`` a
function works in place, which is what makes a chain of them fast. Images of one channel have no colour: ``saturation``,
``hue`` and ``greyscale`` leave them as they are.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["brightness", "contrast", "greyscale", "hue", "normalise", "saturation", "solarise"]

LUMA = (0.2989, 0.587, 0.114)  # weights of red, green, blue in the grey of ITU-R BT.601, rounded as torchvision rounds them


def brightness(x: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"], *, out: Tensor | None = None) -> Tensor:
    """Returns ``clamp(factor * x)``, torchvision's ``adjust_brightness``; 0 is black, 1 changes nothing."""
    return torch.mul(x, _each_image(factor), out=out).clamp_(max=1)


def contrast(x: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"], *, out: Tensor | None = None) -> Tensor:
    """Returns ``clamp(factor * x + (1 - factor) * m)``, ``m`` the mean grey of the image, torchvision's ``adjust_contrast``.

    0 is an even grey, 1 changes nothing.
    """
    mean = x.mean((2, 3))  # b c
    mean = mean[:, 0] if x.shape[1] == 1 else _grey(mean)
    return torch.mul(x, _each_image(factor), out=out).add_(_each_image(mean * (1 - factor))).clamp_(0, 1)


def saturation(x: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"], *, out: Tensor | None = None) -> Tensor:
    """Returns ``clamp(factor * x + (1 - factor) * grey(x))``, torchvision's ``adjust_saturation``; 0 is grey, 1 no change."""
    if x.shape[1] == 1:
        return x.clone() if out is None else out.copy_(x)
    return torch.lerp(_grey(x)[:, None], x, _each_image(factor), out=out).clamp_(0, 1)


def hue(x: Float[Tensor, "b c h w"], turn: Float[Tensor, " b"], *, out: Tensor | None = None) -> Tensor:
    """Turns the hue in HSV space, torchvision's ``adjust_hue``, without branches.

    With u = (rgb - min) / (max - min), of which one channel is 0 and one is 1, the angle from red in sixths of a turn is
    1 + u_g + u_b - u_r, towards green where g > b and towards blue elsewhere. Back again a channel is
    min + (max - min) * clamp(2 - d, 0, 1), d its distance in sixths from the angle.

    Arguments:
        turn: In turns of the colour circle: 0 and 1 change nothing, 1/3 makes red green.
    """
    out = x.clone() if out is None else out.copy_(x)
    if x.shape[1] == 1:
        return out
    r, g, b = out.unbind(1)
    low = torch.minimum(r, g)
    torch.minimum(low, b, out=low)
    high = torch.maximum(r, g)
    torch.maximum(high, b, out=high)
    chroma = high - low
    part = chroma.clamp_min(1e-12)
    angle = (g + b).sub_(r).sub_(low).div_(part).add_(1)  # sixths from red, 0 to 3
    torch.copysign(angle, torch.sub(g, b, out=part), out=angle)
    angle.add_((6 * turn - 3)[:, None, None])  # sixths from cyan, after any number of turns
    angle.sub_(torch.mul(angle, 1 / 6, out=part).round_(), alpha=6)  # -3 to 3: green at -1, blue at 1
    torch.abs(angle, out=part).sub_(1).clamp_(0, 1)
    torch.addcmul(low, part, chroma, out=r)
    torch.add(angle, 1, out=part).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(high, part, chroma, value=-1, out=g)
    angle.sub_(1).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(high, angle, chroma, value=-1, out=b)
    return out


def greyscale(x: Float[Tensor, "b c h w"], which: Bool[Tensor, " b"] | None = None, *, out: Tensor | None = None) -> Tensor:
    """Returns grey images of as many channels, torchvision's ``rgb_to_grayscale``; with ``which``, of some rows alone."""
    if x.shape[1] == 1:
        return x.clone() if out is None else out.copy_(x)
    grey = _grey(x)[:, None].expand_as(x)
    if which is not None:
        grey = torch.where(_each_image(which), grey, x)
    return grey.contiguous() if out is None else out.copy_(grey)


def solarise(x: Float[Tensor, "b c h w"], threshold: Float[Tensor, " b"], *, out: Tensor | None = None) -> Tensor:
    """Inverts the values from ``threshold`` on, torchvision's ``solarize``; a threshold above 1 changes nothing."""
    solar = torch.where(x >= _each_image(threshold), 1 - x, x)
    return solar if out is None else out.copy_(solar)


def normalise(x: Float[Tensor, "b c h w"], mean: Sequence[float], std: Sequence[float], *, out: Tensor | None = None) -> Tensor:
    """Returns ``(x - mean) / std`` of every channel, torchvision's ``normalize``; the result leaves [0, 1].

    View makers do not call it: an ``Encoder`` normalises for itself.

    Raises:
        ValueError: If there is not one mean and one positive standard deviation a channel.
    """
    if not len(mean) == len(std) == x.shape[1] or min(std) <= 0:
        raise ValueError(f"images of {x.shape[1]} channels need as many means and positive stds, but got {mean} and {std}")
    shift, scale = (x.new_tensor(v)[:, None, None] for v in (mean, std))
    return torch.sub(x, shift, out=out).div_(scale)


def _grey(x: Tensor) -> Tensor:
    r, g, b = x.unbind(1)
    return torch.mul(r, LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])


def _each_image(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]
