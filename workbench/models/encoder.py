"""An encoder: a backbone that gives the representation ``h``, a projector that gives the embedding ``z``."""

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from workbench.core import Embedding

__all__ = ["Encoder", "Projector", "layers"]


class Projector(nn.Sequential):
    """Linear-BatchNorm-ReLU blocks, the last linear alone; ``projector.0``, ``projector.1`` ... name its layers.

    Arguments:
        widths: Of the input, of every hidden layer and of the output: ``[512, 2048, 2048, 128]``. Fewer than two widths give
            the identity: the embedding is the representation (no projector).
        norm_last: Whether the output is normalised too, as SimCLR v1 and SimSiam do.

    Example:
        >>> Projector([8, 16, 4])(torch.ones(2, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, widths: Sequence[int], *, norm_last: bool = False):
        *hidden, last = zip(widths[:-1], widths[1:], strict=True) if len(widths) > 1 else [None]
        blocks = [nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()) for a, b in hidden]
        if last:
            end = nn.Linear(*last, bias=False)
            blocks.append(nn.Sequential(end, nn.BatchNorm1d(last[1])) if norm_last else end)
        super().__init__(*blocks)
        self.widths, self.norm_last = list(widths), norm_last


class Encoder(nn.Module):
    """A backbone and a projector, with the normalisation of the pixels in front.

    Arguments:
        backbone: Images (B, C, H, W) to representations (B, D).
        projector: Representations to embeddings (B, K).
        mean, std: Of the pixels in [0, 1], a value a channel; the input is ``(x - mean) / std``.
    """

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, *, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.25,)
    ):
        super().__init__()
        self.backbone, self.projector = backbone, projector
        self.mean, self.std = tuple(mean), tuple(std)
        self.register_buffer("_shift", torch.tensor(self.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("_scale", 1 / torch.tensor(self.std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Embedding:
        h = self.backbone((x - self._shift) * self._scale)
        return Embedding(h, self.projector(h))


def layers(model: nn.Module) -> list[str]:
    """Returns the names of every layer that features can be taken from: module paths, in the order of definition.

    Example:
        >>> layers(Encoder(nn.Flatten(), Projector([4, 8, 2])))[:3]
        ['backbone', 'projector', 'projector.0']
    """
    return [name for name, _ in model.named_modules() if name]
