r"""QLAE: an autoencoder whose every dimension takes one of a few learned values, the same for all images.

With c the numbers that the encoder gives and z the nearest values, of which the picture is drawn,

.. math:: L = -\log p(x|z) + \lambda_q \| \mathrm{sg}(c) - z \|^2 + \lambda_c \| c - \mathrm{sg}(z) \|^2

averaged over images and, the last two, over dimensions; sg lets no gradient pass. The second term moves the values to the
numbers, the third the numbers to the values, and the first moves the numbers as if z were c. The authors decay the weights
strongly (``weight_decay=0.1``), which with the few values is what makes dimensions follow factors.

References:
    Disentanglement via Latent Quantization (Hsu et al., 2023), https://arxiv.org/abs/2305.18378
"""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.objectives.base import Objective, embed, in_full_precision, positive
from workbench.objectives.masking import one_view
from workbench.objectives.variational import autoencoder, unlikelihood, weight

__all__ = ["QLAE"]


class QLAE(Objective):
    """QLAE, one view an image, for an :class:`Autoencoder` with a quantised code (``latents`` and ``levels`` are its own).

    Arguments:
        quantise: Weight of moving values to numbers, at least 0.
        commit: Weight of moving numbers to values, at least 0.
        pixel_std: As of :class:`BetaVAE`.

    Terms: ``loss``; ``reconstruction``, in nats an image; ``quantisation``, the mean squared distance of numbers from values.
    """

    takes = 1
    code = "quantised"

    def __init__(self, *, quantise: float = 0.1, commit: float = 0.1, pixel_std: float | None = None) -> None:
        super().__init__()
        self.quantise, self.commit = weight("quantise", quantise), weight("commit", commit)
        self.pixel_std = None if pixel_std is None else positive("pixel_std", pixel_std)

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        autoencoder(model, "QLAE", code="quantised")

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        autoencoder(model, "QLAE", code="quantised")
        x = one_view(views, "QLAE")
        h, z = embed(model, [x])[0]
        numbers = model.projector(h)
        values = model.latent.nearest(numbers)
        quantise, commit = squared(numbers.detach(), values), squared(numbers, values.detach())
        reconstruction = unlikelihood(model.decoder(z), x, std=self.pixel_std)
        loss = reconstruction + self.quantise * quantise + self.commit * commit
        return {"loss": loss, "reconstruction": reconstruction, "quantisation": quantise.detach()}


squared = in_full_precision(F.mse_loss)
