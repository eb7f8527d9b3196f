r"""Adversarial images: pixels moved as little as can be seen, so that a probe of a layer takes them for something else.

With J the cross-entropy of the probe's logits for the true class, the fast gradient sign method makes one step,

.. math:: x' = \operatorname{clip}_{[0, 1]} (x + \varepsilon \, \operatorname{sign} \nabla_x J(x, y))

and projected gradient descent several small ones, each put back into the ball:

.. math:: x_{t + 1} = \operatorname{clip}_{[0, 1] \cap [x - \varepsilon, x + \varepsilon]}
          (x_t + \alpha \, \operatorname{sign} \nabla_x J(x_t, y))

Samples of a denoiser that is conditioned on what the encoder says of such images show whether the representation moved.

References:
    Explaining and Harnessing Adversarial Examples (Goodfellow, Shlens and Szegedy, 2015), section 4,
    https://arxiv.org/abs/1412.6572
    Towards Deep Learning Models Resistant to Adversarial Attacks (Madry et al., 2018), section 2.1,
    https://arxiv.org/abs/1706.06083
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core import mixed_seed
from workbench.data.images import Images
from workbench.generate.pixels import as_pixels, reading
from workbench.probes import LinearProbe

__all__ = ["attacked"]

Head = Callable[[Float[Tensor, "b d"]], Float[Tensor, "b k"]]


def attacked(
    model: nn.Module,
    probe: LinearProbe | Head,
    images: Images | Float[Tensor, "n c h w"],
    labels: Sequence | np.ndarray | Tensor,
    layer: str,
    eps: float,
    *,
    steps: int | None = None,
    seed: int = 0,
    tokens: str = "mean",
    batch_size: int = 256,
) -> Float[Tensor, "n c h w"]:
    """Returns images, float in [0, 1], at most ``eps`` away from the given ones in every value, that the probe reads worse.

    Arguments:
        model: Any encoder; it is attacked in evaluation mode and left as it was.
        probe: A fitted :class:`LinearProbe` of the layer, or what takes representations (B, D) to logits (B, K) with gradients.
        images: (N, C, H, W) in [0, 1], or :class:`Images`.
        labels: The true class of each: one of the probe's ``classes_``; of another head the number of its logit.
        layer: A module path, that of the probe.
        eps: Radius of the ball of the maximum norm, as a share of the pixels' range: 8 of 255 levels are ``8 / 255``.
        steps: None for one step of the fast gradient sign method; else of projected gradient descent, which starts at a random
            point of the ball, steps by ``2.5 * eps / steps`` (wide enough to cross the ball) and gives of each image the point
            of greatest loss that it passed, the image itself included.
        seed: Of the starting points; that of an image depends on its row alone.
        tokens: As of :func:`extract`.
        batch_size: Images at a time; results do not change but for rounding.

    Raises:
        TypeError, KeyError, ValueError: As of :func:`extract`; if there is not one known label an image; if ``eps`` is not from 0
            to 1 or ``steps`` below 1; if the probe is of another width; if a head gives no logit of a label.

    Example:
        >>> images, model = wb.garments(64), wb.build_encoder("convnet", "8", width=4)
        >>> labels = images.factors["label"]
        >>> probe = wb.LinearProbe().fit(wb.represent(model, images, "backbone").values, labels)
        >>> moved = attacked(model, probe, images, labels, "backbone", 4 / 255, steps=5)
        >>> h = wb.represent_pixels(model, moved, "backbone").values
        >>> probe.score(h, labels) < probe.score(wb.represent(model, images, "backbone").values, labels)
        True
    """
    x, y = as_pixels(images), _numbers(probe, labels, len(images))
    if not 0 <= eps <= 1:
        raise ValueError(f"eps is a share of the pixels' range, from 0 to 1, but got {eps}; of 255 levels write {eps} / 255")
    if steps is not None and (isinstance(steps, bool) or steps != int(steps) or steps < 1):
        raise ValueError(f"steps are a whole number of at least 1, or None for a single one of full length, but got {steps}")
    parts = []
    with torch.enable_grad(), reading(model, layer, tokens=tokens) as read:

        def climb(at: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
            at = at.requires_grad_()
            loss = _losses(_logits(probe, read(at), layer), y[rows])
            (slope,) = torch.autograd.grad(loss.sum(), at)  # a sum, so that an image's slope is its own
            return loss.detach(), slope

        for start in range(0, len(x), batch_size):
            rows = slice(start, min(start + batch_size, len(x)))
            if steps is None:
                parts.append(_within(x[rows], climb(x[rows].clone(), rows)[1].sign() * eps, eps))
            else:
                parts.append(_descended(x[rows], eps, int(steps), _starts(x, rows, seed), lambda at, rows=rows: climb(at, rows)))
    return torch.cat(parts)


def _descended(x: Tensor, eps: float, steps: int, start: Tensor, climb: Callable) -> Tensor:
    best, at = x, _within(x, start * eps, eps)
    greatest, _ = climb(x.clone())
    for step in range(steps + 1):
        loss, slope = climb(at)
        at = at.detach()
        higher = loss > greatest
        best, greatest = torch.where(higher[:, None, None, None], at, best), torch.maximum(loss, greatest)
        if step < steps:
            at = _within(x, at - x + 2.5 * eps / steps * slope.sign(), eps)
    return best


def _within(x: Tensor, off: Tensor, eps: float) -> Tensor:
    return (x + off.clamp(-eps, eps)).clamp(0, 1)


def _starts(x: Tensor, rows: slice, seed: int) -> Tensor:
    """Returns a point of the unit ball for each image, drawn on the processor whatever the images are on."""
    draws = [torch.Generator().manual_seed(mixed_seed(seed, i)) for i in range(rows.start, rows.stop)]
    return torch.stack([2 * torch.rand(x.shape[1:], generator=g) - 1 for g in draws]).to(x)


def _logits(probe: LinearProbe | Head, h: Tensor, layer: str) -> Tensor:
    """Returns logits in float64, in which the loss of a sure answer has a slope still."""
    if not isinstance(probe, LinearProbe):
        if not callable(probe):
            raise TypeError(
                f"an attack climbs the loss of a wb.LinearProbe or of what gives logits, but got {type(probe).__name__}"
            )
        return probe(h).double()
    if h.shape[1] != probe.n_features_in_:
        raise ValueError(
            f"the probe was fitted on {probe.n_features_in_} dimensions, but the layer {layer!r} gives {h.shape[1]}; "
            f"name the layer that it was fitted on"
        )
    return probe.differentiable(h.double())


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    if logits.ndim != 2 or not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        raise ValueError(
            f"labels number a head's logits (B, K) from 0, but go from {int(y.min())} to {int(y.max())} where it gives "
            f"{tuple(logits.shape)}"
        )
    return F.cross_entropy(logits, y.to(logits.device), reduction="none")


def _numbers(probe: LinearProbe | Head, labels: Sequence | np.ndarray | Tensor, n: int) -> Tensor:
    labels = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if labels.shape != (n,):
        raise ValueError(f"each of the {n} images has one label, but got labels of shape {labels.shape}")
    if not isinstance(probe, LinearProbe):
        if labels.dtype.kind not in "iub":
            raise ValueError(f"labels of a head are the whole numbers of its logits, but got {labels.dtype}")
        return torch.from_numpy(labels.astype(np.int64))
    probe.require_fit()
    strange = labels[~np.isin(labels, probe.classes_)]
    if len(strange):
        raise ValueError(
            f"the probe tells {len(probe.classes_)} classes apart, among which {strange.tolist()[0]!r} is not: "
            f"{', '.join(map(repr, probe.classes_.tolist()[:12]))}"
        )
    return torch.from_numpy(np.searchsorted(probe.classes_, labels))
