r"""Noise on the condition that fades while an image is drawn (CADS): more different images of one representation.

.. math::
    \hat z_t = \sqrt{\gamma(t)} \, z + s \sqrt{1 - \gamma(t)} \, n, \qquad n \sim N(0, I)

.. math::
    \gamma(t) = 1 \text{ if } t \le \tau_1, \quad 0 \text{ if } t \ge \tau_2, \quad
    (\tau_2 - t) / (\tau_2 - \tau_1) \text{ between,}

with t falling from 1 (noise) to 0 (image). Its mean and standard deviation are then brought back to those of z by a share psi:

.. math::
    \psi \left( \frac{\hat z - \text{mean}(\hat z)}{\text{std}(\hat z)} \, \text{std}(z) + \text{mean}(z) \right)
    + (1 - \psi) \hat z

References:
    CADS: Unleashing the Diversity of Diffusion Models through Condition-Annealed Sampling (Sadat et al., 2023),
    https://arxiv.org/abs/2310.17347
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__: list[str] = []


def share_kept(t: float, tau1: float, tau2: float) -> float:
    """Returns gamma(t), from 0 to 1."""
    if t <= tau1:
        return 1.0
    return 0.0 if t >= tau2 else (tau2 - t) / (tau2 - tau1)


def annealed(
    z: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"], gamma: float, *, strength: float, psi: float
) -> Float[Tensor, "b *d"]:
    """Returns the noisy condition; mean and standard deviation are each image's own, so that no other image enters."""
    noisy = gamma**0.5 * z + strength * (1 - gamma) ** 0.5 * noise
    axes = tuple(range(1, z.ndim))
    (std, mean), (own_std, own_mean) = (torch.std_mean(part, axes, correction=0, keepdim=True) for part in (noisy, z))
    back = (noisy - mean) / torch.where(std > 0, std, 1) * own_std + own_mean
    return psi * back + (1 - psi) * noisy
