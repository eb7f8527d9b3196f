r"""A linear projector that never learns: what remains of a projector when its training is taken away.

Jing et al. (2022, table 2) replace SimCLR's projector by :math:`z = P h` with :math:`P` fixed. Of full rank it does no better
than no projector; of low rank :math:`d_0`, orthogonal or diagonal, it does nearly as well as a trained one. With the diagonal of
:math:`d_0` ones it is DirectCLR. Choosing other :math:`d_0` dimensions for every batch (their appendix F) is a control:
then all dimensions are contrasted in turn, and nothing is left alone.

Xue et al. (2024) find that what a trained linear projector does is to weigh features unequally, and put fixed weights in its
place: :math:`z_i = \kappa^i h_i` with :math:`\kappa < 1`.
"""

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from workbench.distributed import from_first

__all__ = ["FixedProjector", "LinearPixels"]

KINDS = ("diagonal", "orthogonal", "resampled", "reweighted")


class FixedProjector(nn.Module):
    """Representations (B, width) to embeddings (B, dim), by a map without parameters.

    Arguments:
        width: Of the representation.
        dim: Of the embedding, at most the width.
        kind: ``"diagonal"``, the first ``dim`` dimensions; ``"orthogonal"``, ``dim`` random orthonormal directions;
            ``"resampled"``, other ``dim`` dimensions for every batch in training (all in evaluation, so that the embedding is
            the representation); ``"reweighted"``, the first ``dim`` dimensions, each times ``decay`` to the power of its number.
        decay: Above 0 and at most 1; the default leaves a hundredth of the weight after 128 dimensions.
        seed: Of the orthonormal directions.

    Raises:
        ValueError: If there is no such kind or the widths do not fit.

    Example:
        >>> FixedProjector(4, 2)(torch.arange(4.0)[None])
        tensor([[0., 1.]])
    """

    def __init__(self, width: int, dim: int, *, kind: str = "diagonal", decay: float = 0.965, seed: int = 0) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"a fixed projector is one of {', '.join(KINDS)}, but got {kind!r}")
        if not 1 <= dim <= width:
            raise ValueError(f"a fixed projector keeps from 1 to {width} of {width} dimensions, but dim is {dim}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay lies above 0 and at most at 1, but is {decay}")
        self.width, self.dim, self.kind, self.decay, self.seed = width, dim, kind, decay, seed
        if kind == "orthogonal":
            square = torch.randn(width, width, generator=torch.Generator().manual_seed(seed))
            self.register_buffer("directions", torch.linalg.qr(square).Q[:, :dim].contiguous(), persistent=False)

        if kind == "reweighted":
            self.register_buffer("weights", decay ** torch.arange(dim), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        if self.kind == "reweighted":
            return h[:, : self.dim] * self.weights
        if self.kind == "orthogonal":
            return h @ self.directions
        if self.kind == "diagonal":
            return h[:, : self.dim]
        if not self.training:
            return h
        kept = from_first(torch.randperm(self.width, device=h.device))[: self.dim]  # all processes keep the same
        return h[:, kept]


class LinearPixels(nn.Module):
    """A backbone that is one linear map of the pixels, such as principal components are: a yardstick for what is learned.

    Arguments:
        pixels: Numbers of an image, C H W.
        out: Width of the representation, kept in ``out``.

    Example:
        >>> LinearPixels(3 * 8 * 8, 16)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 16])
    """

    def __init__(self, pixels: int, out: int) -> None:
        super().__init__()
        self.pixels, self.out = pixels, out
        self.map = nn.Linear(pixels, out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.map(x.flatten(1))
