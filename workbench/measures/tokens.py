"""What the tokens of a vision transformer attend to and vary by: attention distance, its information, Fourier amplitudes.

A grid of h x w patches gives h w tokens, row by row; tokens that stand before them (class, registers) are left out.
"""

import math

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["attention_distance", "attention_information", "fourier_amplitude"]

Array = Tensor | np.ndarray


def attention_distance(
    attention: Float[Array, "n heads queries keys"], *, grid: tuple[int, int] | None = None, before: int = 0, patch: float = 1.0
) -> pd.DataFrame:
    r"""The mean distance between the patch that asks and the patches it attends to, of each head.

    .. math:: \operatorname{mean}_{i} \sum_j a_{ij} \lVert \text{place}_i - \text{place}_j \rVert

    with the attention on patches alone, scaled to sum 1 (even, where a patch attends to no patch). Heads that look about
    them are small in it, heads that see the whole image near that of even attention, about half of the side of a square grid.

    Arguments:
        attention: Weights after the softmax (N, heads, T, T), or (heads, T, T) of one image.
        grid: Patches down and across; by default a square.
        before: Tokens before the patches, that are left out: 1 with a class token.
        patch: Pixels of a patch's side, so that the distance is in pixels; 1 leaves it in patches.

    Returns:
        Columns ``head`` (from 0) and ``value``.

    Raises:
        ValueError: If the shape is wrong, the tokens are not the grid, or weights are negative or not finite.

    References:
        | Do Vision Transformers See Like Convolutional Neural Networks? (Raghu et al., 2021), https://arxiv.org/abs/2108.08810
        | What Do Self-Supervised Vision Transformers Learn? (Park et al., 2023), https://arxiv.org/abs/2305.00729
    """
    weights, (h, w) = _on_patches(attention, grid, before)
    place = torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(weights).reshape(-1, 2)
    value = (weights * torch.cdist(place, place)).sum(-1).mean((0, 2)) * patch
    return pd.DataFrame({"head": range(len(value)), "value": value.cpu().numpy()})


def attention_information(
    attention: Float[Array, "n heads queries keys"], *, grid: tuple[int, int] | None = None, before: int = 0
) -> pd.DataFrame:
    r"""The normalised mutual information of queries and keys, of each head: 0 where all patches attend to the same.

    .. math:: \frac{I(q, k)}{\sqrt{H(q) H(k)}}, \quad p(q) = \tfrac1T, \; p(k | q) = a_{qk}

    From 0, collapsed attention, to 1, each patch to a patch of its own; the mean over images.

    Arguments:
        attention, grid, before: As in :func:`attention_distance`.

    Returns:
        Columns ``head`` (from 0) and ``value``; NaN where all attention of an image is on one key, or there is one patch.

    References:
        | What Do Self-Supervised Vision Transformers Learn? (Park et al., 2023), https://arxiv.org/abs/2305.00729
    """
    weights, _ = _on_patches(attention, grid, before)
    keys = weights.mean(2)  # (N, heads, T)
    entropy = torch.special.entr(keys).sum(-1)
    shared = entropy - torch.special.entr(weights).sum(-1).mean(-1)
    value = (shared / (entropy * math.log(weights.shape[-1])).sqrt()).mean(0)
    return pd.DataFrame({"head": range(len(value)), "value": value.cpu().numpy()})


def fourier_amplitude(
    tokens: Float[Array, "n tokens d"], *, grid: tuple[int, int] | None = None, before: int = 0, eps: float = 1e-6
) -> pd.DataFrame:
    r"""How much of a feature map is in high spatial frequencies: log-amplitudes against that of frequency 0.

    .. math:: \Delta(f) = \operatorname{mean} \log(\lvert F_{f,f} \rvert + \epsilon)
              - \operatorname{mean} \log(\lvert F_{0,0} \rvert + \epsilon)

    with the two-dimensional Fourier transform F of each channel of each image, along the diagonal of equal frequency down and
    across, and the mean over images and channels. Contrastive ViTs lose high frequencies with depth, masked ones less.

    Arguments:
        tokens: Features (N, T, D) of the tokens of a layer.
        grid: Patches down and across, which must be equal; by default a square.
        before: Tokens before the patches, that are left out: 1 with a class token.
        eps: Added to the amplitudes, as in the authors' code.

    Returns:
        Columns ``frequency``, in units of pi a patch, from 0 to below 1, and ``value``, 0 at frequency 0.

    Raises:
        ValueError: If the shape is wrong or the tokens are no square grid.

    References:
        | How Do Vision Transformers Work? (Park, Kim, 2022), https://arxiv.org/abs/2202.06709
        | What Do Self-Supervised Vision Transformers Learn? (Park et al., 2023), https://arxiv.org/abs/2305.00729
    """
    x = torch.as_tensor(tokens).detach().to(torch.float64)
    if x.ndim != 3:
        raise ValueError(f"tokens must be (images, tokens, dimensions), but got shape {tuple(x.shape)}.")
    h, w = _grid(x.shape[1], grid, before)
    if h != w:
        raise ValueError(f"the diagonal of frequencies needs as many patches down as across, but got {h} x {w}.")
    maps = x[:, before:].unflatten(1, (h, w))  # (N, h, w, D)
    amplitude = (torch.fft.fft2(maps, dim=(1, 2)).abs() + eps).log().mean((0, 3))
    value = amplitude.diagonal()[: (h + 1) // 2]
    frequency = np.arange(len(value)) / (h / 2)
    return pd.DataFrame({"frequency": frequency, "value": (value - value[0]).cpu().numpy()})


def _on_patches(attention: Array, grid: tuple[int, int] | None, before: int) -> tuple[Tensor, tuple[int, int]]:
    """Returns the weights from patches to patches, (N, heads, h w, h w), each row of sum 1, and the grid."""
    weights = torch.as_tensor(attention).detach().to(torch.float64)
    weights = weights[None] if weights.ndim == 3 else weights
    if weights.ndim != 4 or weights.shape[-1] != weights.shape[-2]:
        raise ValueError(f"attention must be (images, heads, tokens, tokens), but got shape {tuple(attention.shape)}.")
    size = _grid(weights.shape[-1], grid, before)
    weights = weights[..., before:, before:]
    total = weights.sum(-1, keepdim=True)
    if not torch.isfinite(total).all() or (weights < 0).any():
        raise ValueError("attention weights are finite and not negative, but some of these are: give them after the softmax.")
    return torch.where(total > 0, weights / total, 1 / weights.shape[-1]), size


def _grid(tokens: int, grid: tuple[int, int] | None, before: int) -> tuple[int, int]:
    patches = tokens - before
    if before < 0 or patches < 1:
        raise ValueError(f"of {tokens} tokens, before={before} leaves no patches.")
    h, w = grid or (math.isqrt(patches),) * 2
    if h * w != patches:
        hint = "say which grid=(down, across) they are, and how many tokens stand before them with before=."
        raise ValueError(f"{tokens} tokens with before={before} are {patches} patches, which are not {h} x {w}: {hint}")
    return h, w
