r"""The blocks that transformers are made of, and where a token stands: for backbones, and for decoders of objectives.

A block adds, to tokens x (B, T, D), what attention gathers and then what a small network makes of it,

.. math:: x \leftarrow x + \mathrm{attn}(\mathrm{norm}_1 x), \qquad x \leftarrow x + \mathrm{mlp}(\mathrm{norm}_2 x)

Parameters bear the names of timm's vision transformers.

References:
    Attention is all you need (Vaswani et al., 2017), eq. 1 and section 3.5, https://arxiv.org/abs/1706.03762
    An image is worth 16x16 words (Dosovitskiy et al., 2021), eq. 2 and 3, https://arxiv.org/abs/2010.11929
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["Attention", "TransformerBlock", "resized_positions", "sincos_positions"]

EPS = 1e-6  # of every LayerNorm, as in timm


class Attention(nn.Module):
    r"""Self-attention of several heads: :math:`\mathrm{softmax}(Q K^\top / \sqrt{d}) V` in each, d = D / heads.

    Arguments:
        width: D, of the tokens.
        heads: Into how many parts of equal width the tokens are cut.

    Raises:
        ValueError: If the heads do not share the width evenly.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads; choose heads that divide it")
        self.width, self.heads = width, heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        for third in self.qkv.weight.chunk(3):  # each of Q, K and V is a matrix of its own
            nn.init.xavier_uniform_(third)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        q, k, v = self.split(x)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def split(self, x: Float[Tensor, "b t d"]) -> tuple[Float[Tensor, "b heads t e"], ...]:
        """Returns queries, keys and values of every head."""
        return self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def weights(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b heads t t"]:
        """Returns how much each token (row) takes from each other (column); rows sum to 1. ``forward`` never stores these."""
        q, k, _ = self.split(x)
        return (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, on every token by itself."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Attention and a small network, each behind a LayerNorm and beside a residual connection.

    Arguments:
        width: Of the tokens.
        heads: Of the attention.
        mlp_ratio: Width of the network's hidden layer, in widths of the tokens.

    Example:
        >>> import torch
        >>> TransformerBlock(8, 2)(torch.ones(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, heads: int, *, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=EPS), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=EPS), Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def sincos_positions(rows: int, columns: int, width: int) -> Float[Tensor, "n d"]:
    r"""Returns a fixed vector for every place of a grid, row by row: half of it tells the column, half the row.

    Each half is :math:`[\sin(p \omega_k)]_k` and then :math:`[\cos(p \omega_k)]_k` with :math:`\omega_k = 10000^{-k / (D/4)}`
    for k from 0 to D/4 - 1, as MAE and MoCo v3 have it.

    Raises:
        ValueError: If the width is not a multiple of 4.

    Example:
        >>> sincos_positions(1, 2, 4).tolist()[0]
        [0.0, 1.0, 0.0, 1.0]
    """
    if width % 4:
        raise ValueError(f"sines and cosines of rows and columns need a width that is a multiple of 4, but got {width}")
    omega = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def along(p: Tensor) -> Tensor:
        angle = p.flatten()[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], 1)  # n d/2

    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.cat([along(column), along(row)], 1).float()


def resized_positions(positions: Float[Tensor, "n d"], grid: tuple[int, int], wanted: tuple[int, int]) -> Float[Tensor, "m d"]:
    """Returns the vectors of a grid (rows, columns) for another, by bicubic interpolation; the same ones where they agree."""
    if grid == wanted:
        return positions
    maps = positions.float().T.reshape(1, -1, *grid)  # 1 d rows columns
    maps = F.interpolate(maps, wanted, mode="bicubic", antialias=True)
    return maps.flatten(2)[0].T.to(positions.dtype)
