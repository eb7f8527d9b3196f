r"""A teacher that follows the model it teaches: its parameters are a moving average of the model's.

.. math:: \xi \leftarrow m \, \xi + (1 - m) \, \theta, \qquad m = 1 - (1 - m_0) \, \frac{\cos(\pi k / K) + 1}{2}

with :math:`\xi` the teacher's parameters, :math:`\theta` the model's, and k the step of K: it follows more and more slowly, and
at the end not at all. Parameters alone are averaged: its BatchNorm keeps running statistics of its own.

References:
    Bootstrap Your Own Latent (Grill et al., 2020), eq. 1 and section 3.2, https://arxiv.org/abs/2006.07733
"""

import copy
import math

import torch
import torch.nn as nn

from workbench.objectives.base import Objective

__all__ = []


class Taught(Objective):
    """An objective with a teacher, which ``begin`` copies from the model by :meth:`appoint`.

    Arguments:
        momentum: The teacher's at the start.

    Raises:
        ValueError: If the momentum is not from 0 to 1.
    """

    def __init__(self, *, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            name = type(self).__name__
            raise ValueError(f"{name}'s momentum is the share of the teacher that stays, from 0 to 1, but got {momentum}.")
        self.momentum = momentum
        self.register_module("teacher", None)

    def appoint(self, model: nn.Module) -> None:
        """Makes the teacher, as the model is now; no gradient reaches it."""
        self.teacher = copy.deepcopy(model).requires_grad_(requires_grad=False).train(self.training)

    def momentum_at(self, progress: float) -> float:
        """The teacher's momentum at ``progress`` (0 to 1) of training."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2

    @torch.no_grad()
    def after_step(self, model: nn.Module, progress: float) -> None:
        share = 1 - self.momentum_at(progress)
        torch._foreach_lerp_(list(self.begun(self.teacher).parameters()), list(model.parameters()), share)
