r"""An encoder whose codes can be drawn again: beside a backbone and a code it has a decoder.

Of a *gaussian* code, every dimension of an image is a normal distribution, of which the encoder says the mean :math:`\mu(x)` and
the logarithm of the variance :math:`\log \sigma^2(x)`: a variational autoencoder. Of a *quantised* one every dimension takes one
of a few learned values. How it is trained is the objective's affair (:class:`workbench.objectives.BetaVAE` and others).

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2014), https://arxiv.org/abs/1312.6114
    Disentanglement via Latent Quantization (Hsu et al., 2023), https://arxiv.org/abs/2305.18378
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from workbench.core import Embedding
from workbench.models.encoder import Encoder

__all__ = ["Autoencoder", "Quantiser"]


class Autoencoder(Encoder):
    """An :class:`Encoder` with a decoder. Its layers: ``backbone`` and its stages, ``projector`` (the mean) and ``latent``.

    ``latent`` is the code: the mean again where it is gaussian, so that either name does, and its nearest values where it is
    quantised. ``z`` of what it returns is the code.

    Arguments:
        backbone: Images (B, C, H, W) to representations (B, D), with D in ``out``.
        decoder: Codes (B, ``latents``) to logits of pixels (B, C, H, W).
        latents: Dimensions of a code.
        code: ``"gaussian"``, with ``log_variance`` of the representation beside the mean, or ``"quantised"``.
        levels: Values that each dimension of a quantised code takes.
        mean, std: Of the pixels that the encoder sees, as of :class:`Encoder`. Most papers of this field give it pixels as they
            are, ``mean=(0,), std=(1,)``, which is right for sprites on black; on a bright ground it hardly learns.

    Raises:
        ValueError: If there is no such code, or no dimension.

    Example:
        >>> from workbench.models.building import build_autoencoder
        >>> model = build_autoencoder("locatello-small", 6, image_size=32)
        >>> model(torch.rand(2, 3, 32, 32)).z.shape, model.decode(torch.zeros(2, 6)).shape
        (torch.Size([2, 6]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: nn.Module,
        latents: int = 10,
        *,
        code: Literal["gaussian", "quantised"] = "gaussian",
        levels: int = 10,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ) -> None:
        if code not in ("gaussian", "quantised"):
            raise ValueError(f"a code is 'gaussian' or 'quantised', but got {code!r}")
        if latents < 1:
            raise ValueError(f"a code has at least 1 dimension, but latents is {latents}")
        super().__init__(backbone, nn.Linear(backbone.out, latents), mean=mean, std=std)
        self.latents, self.code, self.levels = latents, code, levels
        self.log_variance = nn.Linear(backbone.out, latents) if code == "gaussian" else None
        self.latent = nn.Identity() if code == "gaussian" else Quantiser(latents, levels)
        self.decoder = decoder

    def forward(self, x: Float[Tensor, "b c h w"]) -> Embedding:
        h, z = super().forward(x)
        return Embedding(h, self.latent(z))

    @torch.no_grad()
    def decode(self, codes: Any) -> Float[Tensor, "n c h w"]:
        """Returns the images, in [0, 1], of codes (N, latents): an array or a tensor, on the device of the model.

        Codes of a quantised model may be any numbers; they are drawn as they are. For gradients there is ``decoder``.

        Raises:
            ValueError: If the codes have other dimensions.

        Example:
            A traversal, of the third dimension of the code of image ``x``::

                codes = run.model()(x).z.repeat(9, 1)
                codes[:, 2] = torch.linspace(-2, 2, 9)
                images = run.model().decode(codes)
        """
        at = next(self.decoder.parameters())
        z = torch.as_tensor(codes).to(at)
        if z.ndim != 2 or z.shape[1] != self.latents:
            raise ValueError(f"codes are a matrix (images, {self.latents}), but got shape {tuple(z.shape)}")
        training = self.decoder.training
        self.decoder.eval()
        try:
            return self.decoder(z).sigmoid()
        finally:
            self.decoder.train(training)


class Quantiser(nn.Module):
    """Replaces every number of a code (B, latents) by the nearest of the values that its dimension takes.

    The gradient passes as if nothing had been replaced; the values learn from :meth:`nearest`, through the objective.

    Arguments:
        latents: Dimensions.
        levels: Values of each, at first evenly from -.5 to .5.

    The layer ``LatentQuantize`` of vector-quantize-pytorch 1.32 is not used: it makes a table of all ``levels ** latents`` codes,
    80 GB for ten of ten, and its values get no gradient.
    """

    def __init__(self, latents: int, levels: int) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"a quantised dimension takes at least 2 values, but levels is {levels}")
        self.latents, self.levels = latents, levels
        self.values = nn.Parameter(torch.linspace(-0.5, 0.5, levels).repeat(latents, 1))

    def forward(self, z: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        return z + (self.nearest(z) - z).detach()

    def nearest(self, z: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Returns the nearest values, with their gradient and none to ``z``."""
        at = (z.detach()[:, :, None] - self.values).abs().argmin(2)  # b k
        return self.values.gather(1, at.T).T
