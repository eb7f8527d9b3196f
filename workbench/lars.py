"""Layer-wise adaptive rate scaling: SGD whose step for each weight matrix is a fixed share of that matrix's norm.

For a parameter with gradient g, weights w and weight decay b, as in the self-supervised literature (Barlow Twins, VICReg)::

    g <- g + b w;    g <- eta |w| / |g| g  (matrices alone);    v <- momentum v + g;    w <- w - lr v

References:
    Large Batch Training of Convolutional Networks (You, Gitman, Ginsburg, 2017), https://arxiv.org/abs/1708.03888
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LARS"]


class LARS(torch.optim.Optimizer):
    """LARS.

    Arguments:
        params: Parameters or groups of them; one-dimensional ones (biases, norms) are neither decayed nor adapted.
        lr: Learning rate, typically 0.2 to 0.4 times the batch size over 256.
        weight_decay: On matrices alone.
        momentum: Between 0 and 1.
        eta: The trust coefficient.

    Example:
        >>> w = torch.nn.Parameter(torch.eye(2)); w.grad = torch.ones(2, 2)
        >>> LARS([w], lr=1.0, momentum=0.0, eta=0.1).step(); round((w - torch.eye(2)).norm().item(), 4)  # 0.1 |w|
        0.1414
    """

    def __init__(
        self, params: Iterable[Any], lr: float, *, weight_decay: float = 0.0, momentum: float = 0.9, eta: float = 0.001
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Takes one step; ``closure``, where given, computes the loss and the gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for adapted in (True, False):
                params = [p for p in group["params"] if p.grad is not None and (p.ndim > 1) == adapted]
                if params:
                    self._update(params, group, adapted=adapted)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any], *, adapted: bool) -> None:
        updates = [p.grad for p in params]
        if adapted:
            updates = torch._foreach_add(updates, params, alpha=group["weight_decay"])
            sizes, slopes = torch._foreach_norm(params), torch._foreach_norm(updates)
            trust = [
                torch.where((w > 0) & (g > 0), group["eta"] * w / g, torch.ones_like(w))
                for w, g in zip(sizes, slopes, strict=True)
            ]
            updates = torch._foreach_mul(updates, trust)
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(params, buffers, alpha=-group["lr"])
