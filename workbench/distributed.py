"""Embeddings of all processes together, with the gradient of one process.

Each process computes the loss of its own share; ``torch.nn.parallel.DistributedDataParallel`` averages the parameters'
gradients. With ``gather``, whose backward adds up what every process asks of its rows, the average is exactly the gradient
that one process would have on the whole batch, for any loss that is the mean over processes of what each one computes.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["from_first", "gather", "mean_over_processes", "rank", "world"]


def world() -> int:
    """The number of processes that train together; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world() > 1 else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:  # noqa: ANN001
        ctx.rows = len(z)
        out = [torch.empty_like(z) for _ in range(world())]
        dist.all_gather(out, z.contiguous())
        return torch.cat(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:  # noqa: ANN001
        grad = grad.clone(memory_format=torch.contiguous_format)  # the sum is made in place, and others may read this gradient
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather(z: Tensor) -> Tensor:
    """Returns the rows (B, ...) of all processes, (world * B, ...), in the order of the processes; ``z`` itself on one.

    Every process must hold the same number of rows.
    """
    return z if world() == 1 else _Gather.apply(z)


def from_first(x: Tensor) -> Tensor:
    """Returns the ``x`` of process 0 on every process, without gradient; for random draws that all must share."""
    if world() > 1:
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(x, src=0)
    return x


def mean_over_processes(x: Tensor) -> Tensor:
    """Returns the mean of ``x`` over processes, without gradient; for what is shown, not for what is descended."""
    if world() == 1:
        return x.detach()
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / world()
