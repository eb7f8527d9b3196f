"""What a layer says of pixels, with the gradient to them: what an attack climbs and an inversion descends.

Also representations of pixels that are no :class:`Images`, because they are not whole numbers of 255ths: views, attacked
images, samples.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from workbench.core import Views
from workbench.data.images import Images
from workbench.features import BLOCK, all_digits, drawn, named
from workbench.generate.representations import Representation, record
from workbench.pooling import Listening
from workbench.views.augment import Augment
from workbench.views.turning import Rotate

__all__ = ["MOVES", "Seen", "reading", "represent_pixels", "represent_views"]

_STILL = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter_p": 0.0, "grey": 0.0}

MOVES: Mapping[str, Callable[[Tensor, Tensor], Views]] = {
    "zoom": Augment(1, **_STILL | {"scale": (0.25, 0.25)}),  # a random quarter of the area
    "colour": Augment(1, **_STILL | {"jitter_p": 1.0, "jitter": (0.4, 0.4, 0.4, 0.1)}),  # SimCLR's for CIFAR-10
    "hue": Augment(1, **_STILL | {"jitter_p": 1.0, "jitter": (0.0, 0.0, 0.0, 0.5)}),  # any turn
    "grey": Augment(1, **_STILL | {"grey": 1.0}),
    "flip": Augment(1, **_STILL | {"flip": 1.0}),
    "rotate": Rotate(1, degrees=(30.0, 30.0)),
}


class Seen(NamedTuple):
    """Images as they were shown, ``pixels`` (N, C, H, W) in [0, 1], and the ``representation`` (N, D) of them."""

    pixels: Tensor
    representation: Representation


@contextmanager
def reading(model: nn.Module, layer: str, *, tokens: str = "mean") -> Iterator[Callable[[Tensor], Tensor]]:
    """While entered, the model is in evaluation mode; yields what takes pixels (B, C, H, W) in [0, 1] to a layer's (B, D).

    Rows are where the pixels are, wherever the model is. Gradients flow to the pixels unless they are switched off. Ask for
    those alone, by ``torch.autograd.grad``: then the weights get none.

    Arguments:
        model, layer, tokens: As of :func:`extract`.

    Raises:
        TypeError, KeyError, ValueError: As of :func:`extract`.

    Example:
        >>> model, x = wb.build_encoder("convnet", "8", width=4), torch.rand(2, 3, 8, 8, requires_grad=True)
        >>> with reading(model, "backbone") as read:
        ...     (slope,) = torch.autograd.grad(read(x).square().sum(), x)
        >>> slope.shape
        torch.Size([2, 3, 8, 8])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a layer is read of a torch module, but got {type(model).__name__}; of a run take run.model()")
    (name,) = named(model, layer)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with all_digits(), Listening(model, [name], tokens) as hear:
        yield lambda pixels: hear(pixels.to(device))[name].to(pixels.device)


def as_pixels(images: Images | Tensor) -> Float[Tensor, "n c h w"]:
    """Returns images as float32 in [0, 1] on the processor, after looking at them.

    Raises:
        TypeError: If they are neither :class:`Images` nor a tensor of floats.
        ValueError: If they are not (N, C, H, W), none, not finite or beyond [0, 1].
    """
    if isinstance(images, Images):
        return images.at(range(len(images))).cpu().float() / 255
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images are wb.Images, or a tensor of floats (N, C, H, W) in [0, 1], but got {got}")
    if images.ndim != 4 or not len(images):
        raise ValueError(f"pixels are (N, C, H, W) with N of at least 1, but got {tuple(images.shape)}")
    images = images.detach().float().cpu()
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"pixels lie in [0, 1], but these lie in [{low:.3g}, {high:.3g}]; of 255ths write pixels / 255")
    return images


@torch.no_grad()
def represent_pixels(
    model: nn.Module, pixels: Images | Float[Tensor, "n c h w"], layer: str, *, tokens: str = "mean", batch_size: int = 512
) -> Representation:
    """Returns a layer's representations of pixels in [0, 1], with the record of where they come from, as :func:`represent`.

    Arguments:
        model, layer, tokens, batch_size: As of :func:`extract`.
        pixels: (N, C, H, W): samples, attacked images, views; also :class:`Images`.

    Raises:
        TypeError, KeyError, ValueError: As of :func:`extract`, and if the pixels are none, or beyond [0, 1].

    Example:
        >>> model = wb.build_encoder("convnet", "8", width=4)
        >>> represent_pixels(model, torch.rand(3, 3, 16, 16), "backbone").values.shape
        torch.Size([3, 32])
    """
    x = as_pixels(pixels)
    with reading(model, layer, tokens=tokens) as read:
        return Representation(torch.cat([read(part) for part in x.split(batch_size)]), record(model, layer, tokens))


def represent_views(
    model: nn.Module,
    images: Images,
    layer: str,
    views: Mapping[str, Callable[[Tensor, Tensor], Views]] = MOVES,
    *,
    tokens: str = "mean",
    seed: int = 0,
    batch_size: int = 512,
) -> dict[str, Seen]:
    """Returns images and what was made of them, each beside its representations: conditions for augmented samples.

    A sample of a moved image that does not show the move tells that the layer is invariant to it.

    Arguments:
        model, layer, tokens, batch_size: As of :func:`extract`.
        views: View makers by name, of one view an image. By default ``MOVES``: ``zoom`` (a random quarter of the area),
            ``colour`` (jitter of .4, .4, .4, .1), ``hue`` (any turn), ``grey``, ``flip`` (left to right) and ``rotate`` (30
            degrees).
        seed: Of the views; those of an image are the same with the same images before it.

    Returns:
        ``"unmoved"`` first, then one entry a view.

    Raises:
        TypeError, KeyError, ValueError: As of :func:`extract`; if a maker gives more than one view; if a view is called
            ``"unmoved"``.

    Example:
        >>> model = wb.build_encoder("convnet", "8", width=4)
        >>> seen = represent_views(model, wb.garments(16), "backbone")
        >>> list(seen), seen["flip"].representation.values.shape
        (['unmoved', 'zoom', 'colour', 'hue', 'grey', 'flip', 'rotate'], torch.Size([16, 32]))
    """
    if not isinstance(images, Images):
        raise TypeError(f"views are made of wb.Images, but got {type(images).__name__}; make them with wb.from_arrays(pixels)")
    if "unmoved" in views:
        raise ValueError("'unmoved' is the name of the images as they are; give the view another")
    shown = {"unmoved": as_pixels(images)} | {name: _moved(images, name, maker, seed) for name, maker in views.items()}
    return {k: Seen(x, represent_pixels(model, x, layer, tokens=tokens, batch_size=batch_size)) for k, x in shown.items()}


def _moved(images: Images, name: str, maker: Callable[[Tensor, Tensor], Views], seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        blocks = [drawn(images, a, maker, seed, torch.device("cpu")).images for a in range(0, len(images), BLOCK)]
    if len(blocks[0]) != 1:
        raise ValueError(f"each entry is one view of an image, but {name!r} makes {len(blocks[0])}; write it with n=1")
    return torch.cat([view for (view,) in blocks])
