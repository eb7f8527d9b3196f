"""What crosses folder borders: two nouns, and how a seed is made of several numbers."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["Embedding", "Views", "mixed_seed"]


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


def mixed_seed(*numbers: int) -> int:
    """Returns one seed, of 63 bits, for several whole numbers; neighbours give unrelated seeds (splitmix64).

    Example:
        >>> mixed_seed(0, 1) == mixed_seed(1, 0)
        False
    """
    x = 0
    for number in numbers:
        x = (x + number + 0x9E3779B97F4A7C15) % 2**64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        x ^= x >> 31
    return x >> 1
