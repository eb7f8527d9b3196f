r"""beta-VAE: draw every image again from a code that may say little.

.. math:: L = -E_{q(z|x)} \log p(x|z) + \beta \, \mathrm{KL}(q(z|x) \| p(z))

averaged over images. At :math:`\beta = 1` it is the variational autoencoder, whose negative is a lower bound of
:math:`\log p(x)`; above, dimensions of the code that pay least are given up, and those that stay tend to follow one factor each.

References:
    beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017), eq. 4,
    https://openreview.net/forum?id=Sy2fzU9gl
"""

import torch.nn as nn
from torch import Tensor

from workbench.core import Views
from workbench.objectives.variational import Variational, weight

__all__ = ["BetaVAE"]


class BetaVAE(Variational):
    """beta-VAE, one view an image (``Plain()``), for an :class:`Autoencoder`; with ``beta=1`` the plain VAE.

    Arguments:
        beta: At least 0; papers try 1 to 16 on images of 64 pixels. 0 leaves the codes free (for :class:`HFS`).
        pixel_std: As of :class:`Variational`.

    The papers train with Adam at 1e-4, batches of 64, for 300,000 steps.

    Terms: ``loss``, ``reconstruction`` and ``kl``, in nats an image.
    """

    def __init__(self, *, beta: float = 4.0, pixel_std: float | None = None) -> None:
        super().__init__(pixel_std=pixel_std)
        self.beta = weight("beta", beta)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        seen = self.see(model, views)
        loss = seen.reconstruction + self.beta * seen.kl
        return {"loss": loss, "reconstruction": seen.reconstruction, "kl": seen.kl}
