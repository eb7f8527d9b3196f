"""What objectives that hide patches of an image and ask for them share: cutting, hiding, asking, and showing what was said.

Every image of a batch hides as many patches as the others, so that they stay a matrix. The random numbers of all processes'
images are drawn by the first one: a batch hides the same patches on one process and on many.
"""

import abc
import math
from typing import NamedTuple

import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.distributed import from_first, rank, world
from workbench.objectives.base import Objective, checked, freeze_projector

__all__ = []


class Reconstruction(NamedTuple):
    """Images (B, C, H, W) in [0, 1]: ``masked`` with grey where patches were hidden, ``filled`` with what was predicted there."""

    masked: Tensor
    filled: Tensor


class Masked(Objective):
    """Hides patches of one view of each image and predicts their pixels; the model's backbone is a :class:`TokenViT`.

    The projector of a model that has one is not used; ``begin`` freezes its parameters and says so.
    """

    takes = 1

    @abc.abstractmethod
    def hide(self, x: Float[Tensor, "b c h w"], backbone: nn.Module) -> tuple[Int[Tensor, "b v"], Int[Tensor, "b m"]]:
        """Returns the numbers of the visible and of the masked patches of images."""

    @abc.abstractmethod
    def predict(self, backbone: nn.Module, pixels: Tensor, visible: Tensor, masked: Tensor) -> Float[Tensor, "b m p"]:
        """Returns what it makes of the masked patches of normalised images (B, C, H, W)."""

    @abc.abstractmethod
    def distance(self, predicted: Float[Tensor, "b m p"], patches: Float[Tensor, "b m p"]) -> Float[Tensor, ""]:
        """Returns the loss of predictions for these patches."""

    def pixels(self, predicted: Float[Tensor, "b m p"], patches: Float[Tensor, "b m p"]) -> Float[Tensor, "b m p"]:
        """Returns predictions in the units of the patches that they are for."""
        return predicted

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        backbone = token_backbone(model, type(self).__name__)
        freeze_projector(model, type(self).__name__)
        self.make(backbone)
        self.to(sample.z.device, torch.promote_types(sample.z.dtype, torch.float32))

    @abc.abstractmethod
    def make(self, backbone: nn.Module) -> None:
        """Makes what is learned beside the backbone, from its widths."""

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        x = one_view(views, type(self).__name__)
        _, predicted, wanted = self._asked(model, x)
        return {"loss": self.distance(predicted, wanted)}

    @torch.no_grad()
    def reconstruct(self, model: nn.Module, images: Float[Tensor, "b c h w"]) -> Reconstruction:
        """Hides patches of images in [0, 1] and fills them in, for a figure; the mask comes from torch's global generator.

        Example:
            >>> import torch, workbench as wb
            >>> model, images = wb.build_encoder("vit-tiny", None), torch.rand(2, 3, 32, 32)
            >>> objective = wb.MAE()
            >>> objective.begin(model, model(images))
            >>> objective.reconstruct(model, images).filled.shape
            torch.Size([2, 3, 32, 32])
        """
        modes = self.training, model.training
        self.eval(), model.eval()
        try:
            masked, predicted, wanted = self._asked(model, images)
        finally:
            self.train(modes[0]), model.train(modes[1])
        patch = model.backbone.patch
        mean, std = (torch.tensor(v, device=images.device, dtype=images.dtype).view(-1, 1, 1) for v in (model.mean, model.std))
        whole = images.expand(-1, max(images.shape[1], len(mean)), -1, -1)
        patches = to_patches(whole, patch)
        where = masked[:, :, None].expand(-1, -1, patches.shape[2])
        grey = to_images(patches.scatter(1, where, 0.5), whole.shape, patch)
        said = to_patches(model.normalise(whole), patch).scatter(1, where, self.pixels(predicted, wanted).to(patches.dtype))
        filled = to_images(said, whole.shape, patch) * std + mean
        return Reconstruction(grey, filled.clamp(0, 1))

    def _asked(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the numbers of the masked patches (B, M), what was predicted of them and what they are (B, M, P)."""
        backbone = token_backbone(model, type(self).__name__)
        pixels = model.normalise(x)
        visible, masked = self.hide(x, backbone)
        predicted = self.predict(backbone, pixels, visible, masked)
        return masked, predicted, take(to_patches(pixels, backbone.patch), masked)


def token_backbone(model: nn.Module, name: str) -> nn.Module:
    """Returns the model's backbone where it can be given some patches alone, or says what to use."""
    backbone = getattr(model, "backbone", None)
    if not (hasattr(model, "normalise") and hasattr(backbone, "encode") and hasattr(backbone, "patch")):
        kind = type(model if backbone is None else backbone).__name__
        raise TypeError(
            f"{name} hides patches from a backbone of tokens, but got a {kind}; use build_encoder('vit-tiny', None), or "
            f"Encoder(TokenViT.of(...), Projector([])) for a vision transformer of timm."
        )
    return backbone


def one_view(views: Views, name: str) -> Tensor:
    """Returns the one view, or says what is wrong."""
    (x, *others) = checked(views, name, views_at_least=1, images_at_least=1)
    if others:
        raise ValueError(f"{name} sees one view of each image, but got {len(views.images)}; use a view maker with n=1.")
    return x


def share(ratio: float, name: str) -> float:
    """Returns the ratio, or says that it must lie between 0 and 1."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise ValueError(f"{name}'s ratio is the share of patches that is hidden, above 0 and below 1, but got {ratio!r}.")
    return ratio


def noise(x: Float[Tensor, "b c h w"], n: int) -> Float[Tensor, "b n"]:
    """Returns ``n`` uniform random numbers an image; the same ones however many processes share a batch."""
    b = len(x)
    drawn = from_first(torch.rand(world() * b, n, device=x.device))
    return drawn[rank() * b : (rank() + 1) * b]


def random_masks(
    x: Float[Tensor, "b c h w"], grid: tuple[int, int], *, ratio: float, side: int = 1
) -> tuple[Int[Tensor, "b v"], Int[Tensor, "b m"]]:
    """Returns, for every image, which patches stay visible and which are masked, in an order of chance.

    Arguments:
        x: Images.
        grid: Patches of a column and of a row; they are numbered row by row.
        ratio: Share that is masked, rounded up, but one square stays.
        side: Of the squares of patches that are hidden as one; it divides the grid.
    """
    rows, columns = grid[0] // side, grid[1] // side
    n = rows * columns
    order = noise(x, n).argsort(1)
    seen = max(n - math.ceil(n * ratio - 1e-9), 1)  # 0.9 of 10 is 9, whatever its rounding
    numbers = torch.arange(grid[0] * grid[1], device=x.device).view(rows, side, columns, side)
    squares = numbers.transpose(1, 2).reshape(n, side * side)  # the patches of each square
    return squares[order[:, :seen]].flatten(1), squares[order[:, seen:]].flatten(1)


def take(x: Float[Tensor, "b n p"], index: Int[Tensor, "b m"]) -> Float[Tensor, "b m p"]:
    """Returns some rows of every image's matrix."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def to_patches(images: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b n p"]:
    """Cuts images into patches, row by row; the pixels of each row by row, their channels together."""
    b, c, h, w = images.shape
    x = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)


def to_images(patches: Float[Tensor, "b n p"], shape: tuple[int, ...], patch: int) -> Float[Tensor, "b c h w"]:
    """Puts patches together again, to images of that shape."""
    b, c, h, w = shape
    x = patches.reshape(b, h // patch, w // patch, patch, patch, c)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
