r"""What objectives of variational autoencoders share: the code of an image as a distribution, its prior, and the picture drawn.

Of image x the encoder gives the distribution :math:`q(z|x) = N(\mu(x), \mathrm{diag}\,\sigma^2(x))`; a code is drawn from it as
:math:`z = \mu + \sigma \varepsilon` with :math:`\varepsilon \sim N(0, I)`, and from the code an image. Two terms are common to
all, means over images of sums over pixels and over dimensions, in nats: how unlikely the image is under the picture drawn,
:math:`-E_q \log p(x|z)`, and how far the code's distribution is from the prior :math:`N(0, I)`,

.. math:: \mathrm{KL}(q(z|x) \| p(z)) = \tfrac12 \sum_j \big(\mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1\big)

As the sum over pixels grows with an image's area, a weight that suits 64 x 64 pixels is 4 times too large at 32 x 32.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2014), eq. 10 and appendix B, https://arxiv.org/abs/1312.6114
"""

from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.distributed import from_first, rank, world
from workbench.objectives.base import Objective, embed, in_full_precision, positive
from workbench.objectives.masking import one_view

__all__: list[str] = []


class Seen(NamedTuple):
    """What a batch came to: the codes' ``mean`` and ``log_variance`` (B, K), codes ``z`` drawn from them, and the two terms."""

    mean: Tensor
    log_variance: Tensor
    z: Tensor
    reconstruction: Tensor
    kl: Tensor


class Variational(Objective):
    """Draws every image again from a code drawn of it; for an :class:`Autoencoder` with a gaussian code, and one view.

    Arguments:
        pixel_std: Of a pixel about that of the picture drawn: half the squared difference in units of it. By default None, and
            pixels are Bernoulli variables, as in this literature: the cross-entropy, whose least value is not 0 where pixels are
            grey. At .1 small and pale images are learned sooner.
    """

    takes = 1
    code = "gaussian"

    def __init__(self, *, pixel_std: float | None = None) -> None:
        super().__init__()
        self.pixel_std = None if pixel_std is None else positive("pixel_std", pixel_std)

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        autoencoder(model, type(self).__name__, code="gaussian")

    def see(self, model: nn.Module, views: Views) -> Seen:
        """Returns the codes of a batch of one view, and the terms common to all."""
        x = one_view(views, type(self).__name__)
        mean, log_variance = self.distribution(model, x)
        z = drawn(mean, log_variance)
        return Seen(mean, log_variance, z, self.reconstruction(model, z, x), kl_to_prior(mean, log_variance))

    def distribution(self, model: nn.Module, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        """Returns the mean and the logarithm of the variance of every image's code (B, K)."""
        autoencoder(model, type(self).__name__, code="gaussian")
        h, mean = embed(model, [x])[0]
        return mean, model.log_variance(h)

    def reconstruction(self, model: nn.Module, z: Float[Tensor, "b k"], x: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Returns how unlikely images are under what is drawn from codes, in nats an image."""
        return unlikelihood(model.decoder(z), x, std=self.pixel_std)


def autoencoder(model: nn.Module, name: str, *, code: str) -> nn.Module:
    """Returns the model where it has a decoder and such a code, or says what to use."""
    if getattr(model, "code", None) != code or not hasattr(model, "decoder"):
        kind = type(model).__name__ + (f" with a {model.code} code" if hasattr(model, "code") else "")
        raise TypeError(
            f"{name} draws images again from a {code} code, but got a {kind}; "
            f"use build_autoencoder('locatello-small', code={code!r}, image_size=...)."
        )
    return model


@in_full_precision
def unlikelihood(logits: Float[Tensor, "b c h w"], x: Float[Tensor, "b c h w"], *, std: float | None = None) -> Float[Tensor, ""]:
    """The negative logarithm of images' likelihood, summed over pixels, in nats an image; of a normal one without its constant.

    Raises:
        ValueError: If the pictures are of another shape than the images.
    """
    if logits.shape != x.shape:
        raise ValueError(
            f"the decoder draws images {tuple(logits.shape[1:])}, but the views are {tuple(x.shape[1:])}; "
            f"give build_autoencoder their image_size and channels."
        )
    if std is not None:
        return (logits.sigmoid() - x).square().sum() / (2 * std**2 * len(x))
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


@in_full_precision
def kl_to_prior(mean: Float[Tensor, "b k"], log_variance: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """The divergence of codes' distributions from the prior, in nats an image: 0 where nothing is said of it."""
    return (mean.square() + log_variance.exp() - log_variance - 1).sum() / (2 * len(mean))


@in_full_precision
def drawn(mean: Float[Tensor, "b k"], log_variance: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Returns a code drawn of every distribution."""
    return mean + (log_variance / 2).exp() * noise(mean)


def noise(mean: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Returns normal random numbers, the same ones however many processes share a batch."""
    b, k = mean.shape
    all_of_them = from_first(torch.randn(world() * b, k, device=mean.device))
    return all_of_them[rank() * b : (rank() + 1) * b].to(mean.dtype)


def weight(name: str, value: float) -> float:
    """Returns ``value``, or says that it must be a number of at least 0."""
    return value if value == 0 and not isinstance(value, bool) else positive(name, value)
