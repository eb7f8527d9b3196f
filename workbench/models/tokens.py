"""A vision transformer that can be given some of an image's patches alone, written out to be read.

The image is cut into patches of p x p pixels, each projected to a token of D numbers and told where it stands; a class token
is put in front; blocks of attention follow. Parameters bear timm's names, so that weights of its ``VisionTransformer`` load.

References:
    An image is worth 16x16 words (Dosovitskiy et al., 2021), eq. 1 to 4, https://arxiv.org/abs/2010.11929
    Fixed positions of sines and cosines, and the initialisation: MoCo v3 (Chen et al., 2021), https://arxiv.org/abs/2104.02057
    Visible tokens alone, or mask tokens: MAE (He et al., 2022), https://arxiv.org/abs/2111.06377, and SimMIM (Xie et al., 2022),
    https://arxiv.org/abs/2111.09886
"""

import math
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.models.checkpoints import State, load_weights
from workbench.spec import fetches_weights
from workbench.transformer import EPS, TransformerBlock, resized_positions, sincos_positions

__all__ = ["TokenViT"]


class TokenViT(nn.Module):
    """Images (B, C, H, W) to pooled representations (B, D), through tokens (B, T, D).

    Arguments:
        image_size: Side in pixels of the images that the positions are made for; those of others are interpolated.
        patch: Side of a patch in pixels.
        width: D, of the tokens.
        depth: Number of blocks, ``blocks.0`` and on, each with ``norm1``, ``attn``, ``norm2`` and ``mlp``.
        heads: Of every attention.
        mlp_ratio: Hidden width of every block's network, in D.
        channels: Of the images.
        positions: ``"sincos"``, fixed, or ``"learned"``, from small random numbers.
        class_token: Whether there is one.
        pool: What the representation is: the mean of the patches' tokens, or the class token (``"cls"``); behind the last norm.
        checkpoint: A file with weights, see :func:`workbench.models.load_weights`; positions of another grid are interpolated.
        prefix: What stands before the names in the file.

    ``out`` is D, ``size`` the ``image_size``, ``stages`` the names of the blocks, ``grid`` the patches of a column and of a row
    at that size, ``num_prefix_tokens`` how many tokens stand before the patches' (1, or 0 without a class token), ``mean`` and
    ``std`` the pixel statistics that most published weights expect (ImageNet's).

    Raises:
        ValueError: If patches do not tile the image, heads do not share the width, or the weights do not fit.

    Example:
        >>> import torch
        >>> vit = TokenViT(32, 4, 96, 4, 3)
        >>> vit(torch.ones(2, 3, 32, 32)).shape, vit.encode(torch.ones(2, 3, 32, 32)).shape
        (torch.Size([2, 96]), torch.Size([2, 65, 96]))
    """

    def __init__(
        self,
        image_size: int = 224,
        patch: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        *,
        mlp_ratio: float = 4.0,
        channels: int = 3,
        positions: Literal["sincos", "learned"] = "sincos",
        class_token: bool = True,
        pool: Literal["mean", "cls"] = "mean",
        checkpoint: str | Path | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__()
        if positions not in ("sincos", "learned"):
            raise ValueError(f"positions must be 'sincos' or 'learned', but got {positions!r}")
        if pool not in ("mean", "cls") or (pool == "cls" and not class_token):
            raise ValueError(f"pool must be 'mean', or 'cls' with a class token, but got {pool!r}, class_token={class_token}")
        self.image_size, self.patch, self.width, self.depth, self.heads = image_size, patch, width, depth, heads
        self.mlp_ratio, self.channels, self.positions = mlp_ratio, channels, positions
        self.class_token, self.pool, self.checkpoint, self.prefix = class_token, pool, checkpoint, prefix
        self.size, self.out = image_size, width
        self.mean, self.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        self.grid = self.grid_of(image_size, image_size)
        self.stages, self.num_prefix_tokens = [f"blocks.{i}" for i in range(depth)], int(class_token)
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.patch_embed.num_patches = math.prod(self.grid)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if class_token else None
        self._place(positions)
        self.blocks = nn.Sequential(*[TransformerBlock(width, heads, mlp_ratio=mlp_ratio) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.report = None
        if checkpoint and fetches_weights():
            self.report = load_weights(self, checkpoint, prefix=prefix, convert=self._fitted)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        tokens = self.encode(x)
        return tokens[:, 0] if self.pool == "cls" else tokens[:, self.num_prefix_tokens :].mean(1)

    def encode(
        self,
        x: Float[Tensor, "b c h w"],
        *,
        visible: Int[Tensor, "b v"] | None = None,
        masked: Bool[Tensor, "b n"] | None = None,
        mask_token: Float[Tensor, " d"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Returns the tokens behind the last norm: the class token where there is one, then the patches, row by row.

        Arguments:
            x: Images, normalised.
            visible: Numbers of the patches that enter, from 0, for every image; the others cost nothing. All by default.
            masked: Which patches enter as ``mask_token`` instead of themselves, where they stand.
            mask_token: What they enter as; needed with ``masked``.
        """
        x = self.blocks(self.enter(x, visible=visible, masked=masked, mask_token=mask_token))
        return self.norm(x)

    def enter(
        self,
        x: Float[Tensor, "b c h w"],
        *,
        visible: Int[Tensor, "b v"] | None = None,
        masked: Bool[Tensor, "b n"] | None = None,
        mask_token: Float[Tensor, " d"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Returns the tokens that enter the first block; the arguments are those of :meth:`encode`."""
        if (masked is None) != (mask_token is None):
            raise ValueError("masked says which patches are replaced and mask_token by what: give both, or neither")
        first, places = self.placed(self.grid_of(*x.shape[-2:]))
        tokens = self.patch_embed(x)  # b n d
        if masked is not None:
            tokens = torch.where(masked[:, :, None], mask_token.to(tokens.dtype), tokens)
        tokens = tokens + places
        if visible is not None:
            tokens = tokens.gather(1, visible[:, :, None].expand(-1, -1, self.width))  # b v d
        if self.cls_token is None:
            return tokens
        return torch.cat([(self.cls_token + first).expand(len(x), -1, -1).to(tokens.dtype), tokens], 1)

    def attention(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b heads t t"]]:
        """Returns every block's attention: row i is what token i takes from the others, and sums to 1.

        Token 0 is the class token where there is one. A batch of B images at T tokens takes ``4 B T^2`` bytes a head and block.
        """
        maps, tokens = [], self.enter(x)
        for block in self.blocks:
            maps.append(block.attn.weights(block.norm1(tokens)))
            tokens = block(tokens)
        return maps

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Returns how many patches such an image has in a column and in a row.

        Raises:
            ValueError: If they do not tile it.
        """
        if min(height, width) < self.patch or height % self.patch or width % self.patch:
            raise ValueError(
                f"patches of {self.patch} x {self.patch} pixels do not tile an image of {height} x {width}; choose patch= or the "
                f"images' size so that they do"
            )
        return height // self.patch, width // self.patch

    def placed(self, grid: tuple[int, int]) -> tuple[Float[Tensor, "one d"], Float[Tensor, "n d"]]:
        """Returns the position of the class token (none, where there is no such) and those of a grid's patches."""
        first, places = self.pos_embed[0].tensor_split([self.num_prefix_tokens])
        return first, resized_positions(places, self.grid, grid)

    @classmethod
    def of(cls, model: nn.Module) -> "TokenViT":
        """Returns a copy of a ``VisionTransformer`` of timm: its shape, its weights, its pooling; without its classifier.

        Raises:
            ValueError: If it computes anything that a ``TokenViT`` does not: registers, layer scales, norms of queries ...

        Example:
            >>> import timm
            >>> TokenViT.of(timm.create_model("test_vit")).out
            64
        """
        try:
            block, channels = model.blocks[0], model.patch_embed.proj.in_channels
            (size, _), (patch, _) = model.patch_embed.img_size, model.patch_embed.patch_size
            ours = cls(
                size,
                patch,
                model.embed_dim,
                len(model.blocks),
                block.attn.num_heads,
                mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
                channels=channels,
                positions="learned",
                class_token=model.cls_token is not None,
                pool={"token": "cls", "avg": "mean"}[model.global_pool],
            ).to(model.pos_embed)
            ours.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head.")})
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"this {type(model).__name__} is no plain vision transformer of timm's: {error}") from error
        x = torch.rand(1, channels, size, size).to(model.pos_embed)
        training = model.training
        with torch.no_grad():
            same = torch.allclose(ours.encode(x), model.eval().forward_features(x), rtol=1e-3, atol=1e-3)
        model.train(training)
        if not same:
            raise ValueError(f"this {type(model).__name__} has the weights of a plain vision transformer, but computes otherwise")
        return ours

    def _place(self, positions: str) -> None:
        tokens = math.prod(self.grid) + self.num_prefix_tokens
        if positions == "learned":
            self.pos_embed = nn.Parameter(0.02 * torch.randn(1, tokens, self.width))
            return
        places = torch.cat([torch.zeros(self.num_prefix_tokens, self.width), sincos_positions(*self.grid, self.width)])
        self.register_buffer("pos_embed", places[None])

    def _fitted(self, state: State) -> State:
        """Interpolates a checkpoint's positions where they are those of another (square) grid."""
        places = state.get("pos_embed")
        if places is None or places.shape == self.pos_embed.shape:
            return state
        first, rest = places[0].tensor_split([self.num_prefix_tokens])
        side = round(len(rest) ** 0.5)
        if side * side != len(rest):
            return state
        return state | {"pos_embed": torch.cat([first, resized_positions(rest, (side, side), self.grid)])[None]}


class PatchEmbed(nn.Module):
    """Images (B, C, H, W) to a token (D) a patch, row by row: one linear map of all of its pixels."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return self.proj(x).flatten(2).transpose(1, 2)
