r"""Operators on representations: what lies between two, which dimensions neighbours share, what is left without these.

A denoiser's samples of the results, drawn of the same noise, show what the operators change:

.. math:: h_a = (1 - a) \, h_1 + a \, h_2 \qquad h'_d = \begin{cases} t_d & d \in S \\ h_d & d \notin S \end{cases}

with S the dimensions that are on in at least 15 of the 20 nearest neighbours of h, and t zero or another's representation.

References:
    High Fidelity Visualization of What Your Self-Supervised Representation Knows About (Bordes, Balestriero and Vincent, 2022),
    https://arxiv.org/abs/2112.09164, and the authors' scripts. These normalise the gallery, but not h, before they look for
    neighbours, interpolate from .5 to .7 and give every row other noise, none of which is done here.
"""

from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.core import mixed_seed
from workbench.generate.representations import Representation, varies
from workbench.measures.sources import warn_of_rare

__all__ = [
    "between",
    "common_dimensions",
    "is_sparse",
    "manipulate",
    "out_of_distribution",
    "random_dimensions",
    "shared_noise",
]

HELD = 1 << 23  # distances at a time: 32 MB

Rows = Representation | Float[Tensor, "n d"]


def between(first: Rows, second: Rows, n: int = 9) -> Representation:
    """Returns ``n`` representations on the straight line from one to another, the two ends as they are.

    Arguments:
        first, second: One representation each, (1, D), or its tokens (1, T, D).
        n: How many, both ends included.

    Raises:
        ValueError: If they are not one each, of one width and one source, or ``n`` is below 2.

    Example:
        >>> between(torch.tensor([[0.0, 4.0]]), torch.tensor([[2.0, 0.0]]), 3).values.tolist()
        [[0.0, 4.0], [1.0, 2.0], [2.0, 0.0]]
    """
    (one, source), (other, same) = (_rows(h, tokens=True) for h in (first, second))
    for rows in (one, other):
        if len(rows) != 1:
            raise ValueError(f"a line has one representation at each end, but got {len(rows)}; pick one by h[3]")
    if n < 2:
        raise ValueError(f"a line has at least its 2 ends, but got n={n}")
    source = _together("the two ends", one, source, other, same)
    a = torch.linspace(0, 1, n, dtype=torch.float64).view(-1, *[1] * (one.ndim - 1)).to(one)
    return Representation((1 - a) * one + a * other.to(one), source)


def shared_noise(pipe: Any, n: int, seed: int = 0) -> Float[Tensor, "n c h w"]:
    """Returns noise that ``n`` samples start from: rows that share it differ by their conditions alone.

    Image i is the same whatever ``n``, whatever the device and whatever was drawn before.

    Arguments:
        pipe: An :class:`RCDMPipeline`.
        n: Samples of each representation.

    Raises:
        ValueError: If ``n`` is below 1.

    Example:
        Four rows of eight samples; a column is drawn of one noise::

            pipe(h[:4], num_images_per_rep=8, latents=shared_noise(pipe, 8))
    """
    if n < 1:
        raise ValueError(f"noise is of at least 1 image, but got n={n}")
    size = pipe.unet.config.sample_size
    shape = (pipe.unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(mixed_seed(seed, i))) for i in range(n)]
    return torch.stack(drawn)


def common_dimensions(
    h: Rows, gallery: Rows, *, neighbours: int = 20, at_least: int = 15, sparse: bool | None = None, quantile: float = 0.5
) -> Bool[Tensor, "*n d"]:
    r"""Returns which dimensions are on in most of the nearest neighbours of a representation: what makes its kind.

    Of sparse features a dimension is on where it is not 0. Of dense ones, which are never 0, it is on for an image where
    :math:`\lvert z \rvert` exceeds the ``quantile`` of all :math:`\lvert z \rvert` of that dimension in the gallery, z
    being its standard score there; so every dimension is on for the same share of the gallery. One that never varies is off.

    Neighbours are near by the cosine, for h and the gallery alike. Where h itself is a row of the gallery it counts among them.

    Arguments:
        h: (N, D).
        gallery: (M, D), of the same source.
        neighbours: K.
        at_least: In how many of them it is on; the authors' script takes more than 14 of 20.
        sparse: Whether the features are; by default what :func:`is_sparse` says of the gallery.
        quantile: For dense features. By chance a dimension that is on for half of the gallery is on for 15 of 20 with .02.

    Returns:
        (D,) of one representation, (N, D) of several.

    Raises:
        ValueError: If widths or sources differ, there are fewer rows than neighbours, or a number lies outside its range.

    Example:
        >>> gallery = torch.eye(3).repeat_interleave(20, 0)
        >>> common_dimensions(gallery[:1], gallery).tolist()
        [True, False, False]
    """
    (rows, source), (others, same) = _rows(h), _rows(gallery)
    _together("h and the gallery", rows, source, others, same)
    others = others.to(rows.device)
    if not 1 <= neighbours <= len(others):
        raise ValueError(f"neighbours are from 1 to the {len(others)} rows of the gallery, but got {neighbours}")
    if not 1 <= at_least <= neighbours:
        raise ValueError(f"at_least counts from 1 to the {neighbours} neighbours, but got {at_least}")
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile is from 0 to below 1, but got {quantile}")
    ones = [F.normalize(x.double(), dim=1) for x in (rows, others)]
    near, _ = _nearest(*ones, neighbours)
    seen = others[near.flatten()]
    if is_sparse(others) if sparse is None else sparse:
        on = seen != 0
    else:
        std, mean = torch.std_mean(others.double(), 0, correction=0)
        off = (others - mean).abs()  # z divides both sides by the same deviation
        bar = off.kthvalue(1 + int(quantile * (len(off) - 1)), dim=0).values
        on = ((seen - mean).abs() > bar) & varies(mean, std)
    common = on.unflatten(0, near.shape).sum(1) >= at_least
    return common[0] if len(rows) == 1 else common


def is_sparse(h: Rows, *, least: float = 0.1) -> bool:
    """Returns whether features are sparse: at least that share of all numbers is exactly 0, as after a ReLU.

    Example:
        >>> h = torch.randn(100, 8)
        >>> is_sparse(h), is_sparse(h.relu())
        (False, True)
    """
    return bool((_rows(h)[0] == 0).double().mean() >= least)


def manipulate(h: Rows, dimensions: Tensor, *, to: Rows | Float[Tensor, " d"] | None = None) -> Representation:
    """Returns representations with some of their dimensions zeroed, or swapped for another's.

    Of sparse features 0 says that nothing was found, and that is what the authors set; of dense ones it is a number like
    others. There the mean says least: ``to=gallery.values.mean(0)``, which is 0 once the denoiser has standardised it.

    Arguments:
        h: (N, D), or tokens (N, T, D), of which every one is changed.
        dimensions: Which ones: true or false for each, (D,) or (N, D); or their numbers. None of them changes nothing.
        to: What they are swapped for, one row or N, or (D,) for all; None for 0.

    Raises:
        ValueError: If the shapes do not fit, the sources differ, or there is no such dimension.

    Example:
        >>> manipulate(torch.ones(1, 3), torch.tensor([True, False, False])).values.tolist()
        [[0.0, 1.0, 1.0]]
    """
    rows, source = _rows(h, tokens=True)
    mask = _mask(dimensions, rows)
    if to is None:
        return Representation(rows.masked_fill(mask, 0), source)
    if isinstance(to, Tensor) and to.ndim == 1:
        to = to.expand(1, *rows.shape[1:]) if len(to) == rows.shape[-1] else to[None]
    target, same = _rows(to, tokens=True)
    if len(target) not in (1, len(rows)):
        raise ValueError(f"dimensions are swapped for those of 1 or of {len(rows)} representations, but got {len(target)}")
    source = _together("h and what its dimensions are swapped for", rows, source, target, same)
    return Representation(torch.where(mask, target.to(rows), rows), source)


def random_dimensions(dimensions: Bool[Tensor, "*n d"], seed: int = 0) -> Bool[Tensor, "*n d"]:
    """Returns as many dimensions, drawn at random: the control of what :func:`manipulate` does to common ones.

    Example:
        >>> common = torch.arange(100) < 7
        >>> random_dimensions(common).sum().item()
        7
    """
    if not isinstance(dimensions, Tensor) or dimensions.dtype is not torch.bool:
        got = dimensions.dtype if isinstance(dimensions, Tensor) else type(dimensions).__name__
        raise TypeError(f"give true or false for each dimension, as wb.common_dimensions does, but got {got}")
    places = torch.rand(dimensions.shape, generator=torch.Generator().manual_seed(seed)).argsort(-1).argsort(-1)
    return places.to(dimensions.device) < dimensions.sum(-1, keepdim=True)


def out_of_distribution(h: Rows, gallery: Rows) -> pd.DataFrame:
    """Returns how far representations lie from those of a gallery, beside how far these lie from each other.

    A denoiser was trained on conditions such as those of its training images. What it draws of others, of a cartoon or of
    another data set, is worth as much as they are near. Take them as all others, of images in the same size::

        out_of_distribution(represent(model, other_images, layer), represent(model, training_images, layer))

    Distances are Euclidean, of dimensions divided by their standard deviation in the gallery; one that never varied there
    is only centred, as by the denoiser.

    Arguments:
        h: (N, D), not rows of the gallery, whose nearest neighbour would be they themselves.
        gallery: (M, D), such as a few thousand training images; time is N M + M².

    Returns:
        A row each: ``image``, its number; ``nearest``, the row of the gallery; ``distance`` to it; ``relative``, the same as
        a multiple of the median distance of a gallery's row to its nearest other; ``beyond``, the share of the
        gallery's rows that lie nearer to their nearest other: evenly spread from 0 to 1 for what is like the gallery, near 1
        for what is not.

    Raises:
        ValueError: If widths or sources differ, or the gallery has fewer than 2 rows.

    Example:
        >>> gallery = torch.arange(10.0)[:, None]
        >>> out_of_distribution(torch.tensor([[4.2], [30.0]]), gallery)[["nearest", "relative", "beyond"]].round(2)
           nearest  relative  beyond
        0        4       0.2     0.0
        1        9      21.0     1.0
    """
    (rows, source), (others, same) = _rows(h), _rows(gallery)
    _together("h and the gallery", rows, source, others, same)
    others = others.to(rows.device)
    if len(others) < 2:
        raise ValueError(f"a gallery has at least 2 rows, so that each has another, but got {len(others)}")
    std, mean = torch.std_mean(others.double(), 0, correction=0)
    rows, others = ((x - mean) / torch.where(varies(mean, std), std, 1) for x in (rows, others))
    near, distance = (t[:, 0] for t in _nearest(rows, others, 1))
    warn_of_rare(rows - others[near], others)
    own = _nearest(others, others, 2)[1][:, 1]
    beyond = (own < distance[:, None]).double().mean(1)
    columns = {"nearest": near, "distance": distance, "relative": distance / own.median(), "beyond": beyond}
    return pd.DataFrame({"image": range(len(rows))} | {name: column.cpu().numpy() for name, column in columns.items()})


def _nearest(rows: Tensor, others: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k nearest of ``others`` to each row, nearest first, and their distances, exact where they are small."""
    found = [torch.cdist(part, others).topk(k, largest=False) for part in rows.split(max(HELD // len(others), 1))]
    index = torch.cat([f.indices for f in found])
    return index, torch.stack([(rows - others[column]).norm(dim=1) for column in index.T], 1)


def _rows(h: Rows, *, tokens: bool = False) -> tuple[Tensor, dict[str, Any]]:
    h = h if isinstance(h, Representation) else Representation(h)
    if h.values.ndim == 3 and not tokens:
        raise ValueError(
            f"a row is one vector an image, but got tokens {tuple(h.values.shape)}; take wb.represent's tokens='mean'"
        )
    finite = torch.isfinite(h.values).flatten(1).all(1)
    if not finite.all():
        raise ValueError(f"representations must be finite, but {int((~finite).sum())} rows are not")
    return h.values.detach(), h.source


def _together(what: str, one: Tensor, source: dict[str, Any], other: Tensor, same: dict[str, Any]) -> dict[str, Any]:
    """Returns what is known of both, where they are of one width and nothing says that they are of two sources."""
    if one.shape[1:] != other.shape[1:]:
        sizes = [" x ".join(map(str, x.shape[1:])) for x in (one, other)]
        raise ValueError(
            f"{what} are representations of one layer, but have {sizes[0]} and {sizes[1]} dimensions; "
            f"take both by wb.represent(model, images, layer)"
        )
    differ = [f"{k} {source[k]!r} and {same[k]!r}" for k in sorted(source.keys() & same.keys()) if source[k] != same[k]]
    if differ:
        raise ValueError(
            f"{what} do not come from the same: {'; '.join(differ)}. Take both by wb.represent(model, images, layer) "
            f"of one model and one layer."
        )
    return same | source


def _mask(dimensions: Tensor, rows: Tensor) -> Bool[Tensor, "n *d"]:
    d = rows.shape[-1]
    if not isinstance(dimensions, Tensor):
        dimensions = torch.as_tensor(dimensions, dtype=None if len(dimensions) else torch.long)
    if dimensions.dtype is torch.bool:
        if tuple(dimensions.shape) not in ((d,), (1, d), (len(rows), d)):
            raise ValueError(
                f"dimensions are true or false for each of {d}, or for each of {(len(rows), d)}, "
                f"but got {tuple(dimensions.shape)}"
            )
        return dimensions.to(rows.device).view(-1, *[1] * (rows.ndim - 2), d).expand_as(rows)
    if dimensions.ndim != 1 or dimensions.is_floating_point():
        raise ValueError(f"dimensions are numbers in a row, but got {tuple(dimensions.shape)} of {dimensions.dtype}")
    wrong = dimensions[(dimensions < 0) | (dimensions >= d)]
    if len(wrong):
        raise ValueError(f"representations have dimensions 0 to {d - 1}, but {int(wrong[0])} was asked for")
    mask = torch.zeros(d, dtype=torch.bool, device=rows.device)
    mask[dimensions.to(rows.device)] = True
    return mask.expand_as(rows)
