r"""MAE: encode the patches that are left of an image, and let a small decoder draw those that are missing.

With M masked patches of P numbers each, :math:`\hat x` what the decoder says, and every patch normalised by itself,

.. math:: L = \frac{1}{M P} \sum_{i \in \mathrm{masked}} \| \hat x_i - \bar x_i \|^2, \qquad
    \bar x_i = \frac{x_i - \mu(x_i)}{\sqrt{\mathrm{var}(x_i) + 10^{-6}}}

averaged over images, with the variance over P - 1 as in the authors' code. The encoder sees the visible patches alone, a quarter
of the work; the decoder sees their encodings, and one learned vector for all missing ones, each with its place. Where a patch
stands in the sequence tells a transformer nothing, so the missing ones stand last, and no sequence is put back in order.

References:
    Masked Autoencoders Are Scalable Vision Learners (He et al., 2022), section 3, https://arxiv.org/abs/2111.06377
"""

import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor

from workbench.objectives.base import in_full_precision, positive
from workbench.objectives.masking import Masked, random_masks, share, take
from workbench.transformer import EPS, TransformerBlock, resized_positions, sincos_positions

__all__ = ["MAE"]


def scale_of(patches: Float[Tensor, "b m p"]) -> tuple[Float[Tensor, "b m one"], Float[Tensor, "b m one"]]:
    """Returns the mean and the standard deviation of every patch's numbers."""
    return patches.mean(2, keepdim=True), (patches.var(2, keepdim=True) + 1e-6).sqrt()


@in_full_precision
def mean_square(predicted: Float[Tensor, "b m p"], wanted: Float[Tensor, "b m p"]) -> Float[Tensor, ""]:
    """Mean of the squared differences; 1 where normalised patches are met with zeros."""
    return (predicted - wanted).square().mean()


class MAE(Masked):
    """MAE on the backbone's tokens, one view an image (``Augment(n=1)`` or ``Plain()``); for a :class:`TokenViT`.

    Arguments:
        ratio: Share of the patches that is hidden.
        normalise: Whether every patch is normalised before it is compared; the paper's better features, less like a picture.
        width, depth, heads: Of the decoder. The paper's has width 512, 8 blocks and 16 heads, for encoders of 768 and more.

    The authors train with AdamW at lr 1.5e-4 for every 256 images of a batch and weight decay 0.05, on crops of 0.2 to 1 of the
    image and flips alone.

    Terms: ``loss``, 1 where nothing is known of normalised patches.
    """

    def __init__(self, *, ratio: float = 0.75, normalise: bool = True, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.ratio, self.normalise = share(ratio, "MAE"), normalise
        self.width, self.depth, self.heads = positive("width", width), positive("depth", depth), positive("heads", heads)
        self.register_module("decoder", None)

    def make(self, backbone: nn.Module) -> None:
        pixels = backbone.patch**2 * backbone.channels
        self.decoder = Decoder(backbone.out, self.width, self.depth, self.heads, outputs=pixels, grid=backbone.grid)

    def hide(self, x: Float[Tensor, "b c h w"], backbone: nn.Module) -> tuple[Int[Tensor, "b v"], Int[Tensor, "b m"]]:
        return random_masks(x, backbone.grid_of(*x.shape[-2:]), ratio=self.ratio)

    def predict(self, backbone: nn.Module, pixels: Tensor, visible: Tensor, masked: Tensor) -> Float[Tensor, "b m p"]:
        decoder = self.begun(self.decoder)
        return decoder(backbone.encode(pixels, visible=visible), visible, masked, backbone.grid_of(*pixels.shape[-2:]))

    def distance(self, predicted: Float[Tensor, "b m p"], patches: Float[Tensor, "b m p"]) -> Float[Tensor, ""]:
        mean, std = scale_of(patches) if self.normalise else (0, 1)
        return mean_square(predicted, (patches - mean) / std)

    def pixels(self, predicted: Float[Tensor, "b m p"], patches: Float[Tensor, "b m p"]) -> Float[Tensor, "b m p"]:
        """As the authors do, a normalised patch is shown with the true one's mean and contrast, which it does not predict."""
        mean, std = scale_of(patches) if self.normalise else (0, 1)
        return predicted * std + mean


class Decoder(nn.Module):
    """From encodings of visible patches to the pixels of the masked ones.

    Arguments:
        inputs: Width of the encodings.
        width, depth, heads: Of its own tokens and blocks.
        outputs: Numbers a patch.
        grid: Patches of a column and of a row that the places are made for; those of other grids are interpolated.
    """

    def __init__(self, inputs: int, width: int, depth: int, heads: int, *, outputs: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.embed, self.head = nn.Linear(inputs, width), nn.Linear(width, outputs)
        for layer in (self.embed, self.head):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.Sequential(*[TransformerBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.register_buffer("places", sincos_positions(*grid, width), persistent=False)

    def forward(
        self, encoded: Float[Tensor, "b t d"], visible: Int[Tensor, "b v"], masked: Int[Tensor, "b m"], grid: tuple[int, int]
    ) -> Float[Tensor, "b m p"]:
        places = resized_positions(self.places, self.grid, grid).expand(len(encoded), -1, -1)  # b n w
        first, seen = self.embed(encoded).tensor_split([-visible.shape[1]], 1)  # the class token's place is the origin
        unseen = self.mask_token + take(places, masked)
        x = self.blocks(torch.cat([first, seen + take(places, visible), unseen], 1))
        return self.head(self.norm(x[:, -masked.shape[1] :]))
