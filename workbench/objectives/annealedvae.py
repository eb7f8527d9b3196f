r"""AnnealedVAE: a code that may say a little, then more: factors come one after the other, the most visible first.

.. math:: L = -E_{q(z|x)} \log p(x|z) + \gamma \, \big|\mathrm{KL}(q(z|x) \| p(z)) - C\big|, \qquad
    C = C_{\max} \min(1, s / r)

with KL the mean over images, s the share of the training that is done, and r the share after which the capacity C stays.

References:
    Understanding disentangling in beta-VAE (Burgess et al., 2018), eq. 8, https://arxiv.org/abs/1804.03599
    The line up to the greatest capacity is that of Locatello et al. (2019), https://arxiv.org/abs/1811.12359
"""

import torch
import torch.nn as nn
from torch import Tensor

from workbench.core import Views
from workbench.objectives.base import positive
from workbench.objectives.variational import Variational

__all__ = ["AnnealedVAE"]


class AnnealedVAE(Variational):
    """AnnealedVAE, one view an image, for an :class:`Autoencoder` with a gaussian code.

    Arguments:
        gamma: What a nat beside the capacity costs; above 0.
        capacity: The greatest, in nats an image; papers try 5 to 150.
        ramp: Share of the training in which the capacity rises from 0 to it, above 0 and up to 1.
        pixel_std: As of :class:`BetaVAE`.

    Terms: ``loss``, ``reconstruction`` and ``kl``, in nats an image, and ``capacity``, C at this step.

    Raises:
        ValueError: If an argument lies outside its range.
    """

    def __init__(
        self, *, gamma: float = 1000.0, capacity: float = 25.0, ramp: float = 1 / 3, pixel_std: float | None = None
    ) -> None:
        super().__init__(pixel_std=pixel_std)
        self.gamma, self.capacity, self.ramp = positive("gamma", gamma), positive("capacity", capacity), positive("ramp", ramp)
        if ramp > 1:
            raise ValueError(f"ramp is a share of the training, above 0 and up to 1, but got {ramp}.")
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        seen = self.see(model, views)
        capacity = (self.capacity * (self.progress / self.ramp).clamp(max=1)).to(seen.kl)
        loss = seen.reconstruction + self.gamma * (seen.kl - capacity).abs()
        return {"loss": loss, "reconstruction": seen.reconstruction, "kl": seen.kl, "capacity": capacity}

    def after_step(self, model: nn.Module, progress: float) -> None:
        self.progress.fill_(progress)
