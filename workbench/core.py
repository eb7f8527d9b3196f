"""The nouns that cross folder borders."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["Embedding", "Views"]


class Views(NamedTuple):
    """Augmented copies of one batch.

    ``images`` holds V tensors (B, C, H, W) with values in [0, 1] (sizes may differ between views), ``index`` (B,) the rows
    of the ``Images`` that they show, and ``actions`` V tables of the parameters of each view, where they were recorded.
    """

    images: list[Tensor]
    index: Tensor
    actions: list[dict[str, Tensor]] | None = None


class Embedding(NamedTuple):
    """What an encoder returns: ``h`` (B, D), the backbone's representation; ``z`` (B, K), the projector's embedding."""

    h: Tensor
    z: Tensor
