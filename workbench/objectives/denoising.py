r"""What a denoiser is asked for: from a noisy image, the noise, the velocity or what EDM's preconditioning leaves to be said.

With an image x in [-1, 1], :math:`\varepsilon \sim N(0, I)` and :math:`\bar\alpha_t = \prod_{i \le t} (1 - \beta_i)`, with 1,000
:math:`\beta_i` evenly from .0001 to .02, the network sees a noisy image, is told how noisy, and is asked for a target:

- ``epsilon`` sees :math:`x_t = \sqrt{\bar\alpha_t} x + \sqrt{1 - \bar\alpha_t} \varepsilon`, is told t, is asked for
  :math:`\varepsilon`;
- ``v`` sees and is told the same, and is asked for :math:`\sqrt{\bar\alpha_t} \varepsilon - \sqrt{1 - \bar\alpha_t} x`;
- ``flow`` sees :math:`(1 - s) x + s \varepsilon`, is told 1000 s, is asked for :math:`\varepsilon - x`;
- ``edm`` sees :math:`c_{in} x_\sigma` with :math:`x_\sigma = x + \sigma \varepsilon`, is told :math:`\ln(\sigma) / 4`, is
  asked for :math:`(x - c_{skip} x_\sigma) / c_{out}`,

where :math:`c_{in} = 1 / \sqrt{\sigma^2 + \sigma_d^2}`, :math:`c_{skip} = \sigma_d^2 / (\sigma^2 + \sigma_d^2)`,
:math:`c_{out} = \sigma \sigma_d / \sqrt{\sigma^2 + \sigma_d^2}` and :math:`\sigma_d = 1/2`. The loss is the mean of the squared
difference of answer and target; for EDM this is its weighted loss, of which the weight is :math:`1 / c_{out}^2`. Of every image t
is drawn evenly, s as the logistic function of a N(0, 1), and :math:`\ln \sigma` of N(-1.2, 1.2²).

References:
    epsilon: Denoising Diffusion Probabilistic Models (Ho, Jain and Abbeel, 2020), eq. 14, https://arxiv.org/abs/2006.11239
    v: Progressive Distillation for Fast Sampling of Diffusion Models (Salimans and Ho, 2022), https://arxiv.org/abs/2202.00512
    flow: Flow Matching for Generative Modeling (Lipman et al., 2023), https://arxiv.org/abs/2210.02747; the draws of s are of
    Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (Esser et al., 2024), https://arxiv.org/abs/2403.03206
    edm: Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), table 1 and eq. 8,
    https://arxiv.org/abs/2206.00364
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.objectives.base import in_full_precision, one_of

__all__ = ["diffusion_loss"]

PREDICTIONS = ("flow", "epsilon", "v", "edm")
SIGMA_DATA = 0.5  # of images in [-1, 1]


class Noised(NamedTuple):
    """What the network sees (B, C, H, W), what it is told of time (B), and what it is asked for (B, C, H, W)."""

    seen: Tensor
    time: Tensor
    target: Tensor


@functools.cache
def alphas_bar(device: torch.device | str = "cpu") -> Float[Tensor, "t"]:
    """Returns the share of the image in the variance of its noised self, after each of 1,000 steps, in float64."""
    return (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0).to(device)


def levels(
    n: int, prediction: str, *, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Float[Tensor, "n"]:
    """Draws how noisy each of ``n`` images becomes: t (whole numbers), s or sigma; on the generator's device, if there is one."""
    device = device if generator is None else generator.device
    if prediction in ("epsilon", "v"):
        return torch.randint(1000, (n,), generator=generator, device=device)
    drawn = torch.randn(n, generator=generator, device=device)
    return drawn.sigmoid() if prediction == "flow" else (1.2 * drawn - 1.2).exp()


def noised(x: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], level: Float[Tensor, "b"], prediction: str) -> Noised:
    """Returns what is seen, told and asked for of images ``x`` in [-1, 1] that are made so noisy."""
    if prediction in ("epsilon", "v"):
        share = alphas_bar(x.device)[level.long()].to(x)[:, None, None, None]
        kept, added = share.sqrt(), (1 - share).sqrt()
        return Noised(kept * x + added * noise, level, noise if prediction == "epsilon" else kept * noise - added * x)
    s = level.to(x)[:, None, None, None]
    if prediction == "flow":
        return Noised((1 - s) * x + s * noise, 1000 * level, noise - x)
    power = (s**2 + SIGMA_DATA**2).sqrt()
    c_skip, c_out = SIGMA_DATA**2 / power**2, s * SIGMA_DATA / power
    noisy = x + s * noise
    return Noised(noisy / power, level.log() / 4, (x - c_skip * noisy) / c_out)


@in_full_precision
def mean_square(predicted: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean of the squared differences."""
    return (predicted - target).square().mean()


def diffusion_loss(
    predict: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    x: Float[Tensor, "b c h w"],
    h: Any,
    *,
    prediction: str = "flow",
    null: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns the loss of a denoiser on images, each given its representation: a scalar to descend.

    Arguments:
        predict: ``predict(seen, time, h, dropped)`` is the network, such as :meth:`RCDMPipeline.predict`.
        x: Images in [0, 1], as the views have them.
        h: Their representations, row by row: what ``predict`` takes, such as a tensor (B, D) or a :class:`Representation`.
        prediction: ``"flow"``, ``"epsilon"``, ``"v"`` or ``"edm"``, as above.
        null: Share of the images, from 0 to 1, whose representation is withheld, so that samples can be guided.
        generator: Of noise and its levels, and of whose representation is withheld; torch's global one by default.

    Raises:
        ValueError: If there is no such prediction, the share is none, or there is not a representation an image.

    Example:
        A step of training::

            pipe = wb.build_denoiser(h.values.shape[1], image_size=16)
            pipe.projector.standardise(h)
            optimiser = torch.optim.AdamW([*pipe.unet.parameters(), *pipe.projector.parameters()], lr=1e-3)
            wb.diffusion_loss(pipe.predict, x, h.values[index]).backward()
            optimiser.step()
    """
    one_of("prediction", prediction, PREDICTIONS)
    if not 0 <= null <= 1:
        raise ValueError(f"null is the share of images whose representation is withheld, from 0 to 1, but got {null}.")
    if len(x) != len(h):
        raise ValueError(f"every image needs its own representation, but got {len(x)} images and {len(h)} representations.")
    device = x.device if generator is None else generator.device
    level = levels(len(x), prediction, generator=generator, device=device).to(x.device)
    noise = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
    dropped = (torch.rand(len(x), generator=generator, device=device) < null).to(x.device)
    seen, time, target = noised(2 * x - 1, noise, level, prediction)
    return mean_square(predict(seen, time, h, dropped), target)
