"""What every objective is: a module from a model and a batch of views to named scalar terms; and what objectives share."""

import abc
import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.distributed import world

__all__ = ["Objective"]


class Objective(nn.Module, abc.ABC):
    """Turns a model and a batch of views into named scalar terms, the one to descend called ``"loss"``.

    What it learns beside the model (a predictor, a teacher, a head) are its own parameters and buffers. Widths that depend on
    the model are made in ``begin``, so that an objective is written before its model is known.

    Under several processes each holds its share of the batch and returns its share of the loss: their mean, and the mean of
    their gradients, are the loss and the gradient of the whole batch on one process.

    Example:
        A training step written by hand::

            objective.read(images.factors)
            objective.begin(model, model(batch[:2]))
            terms = objective(model, views)
            terms["loss"].backward()
            optimiser.step()
            objective.after_step(model, progress=step / steps)
    """

    takes: int = 2  # views of an image; who makes the views from a name asks the maker for so many
    code: str | None = None  # of the autoencoder that it trains, "gaussian" or "quantised"; None where any encoder does
    undecayed: tuple[str, ...] = ()  # names of its parts whose learning rate stays at its height after the warm-up

    def read(self, factors: Any) -> None:
        """Called before ``begin`` with the table of factors of the images; what needs a label takes it here."""

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        """Called once before training, on the training device; a teacher copies the model here.

        Arguments:
            model: The model to be trained.
            sample: What it returns for two images, for the widths.
        """

    @abc.abstractmethod
    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        """Returns scalar terms by name, among them ``"loss"``."""

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Called after each optimiser step; a moving-average teacher moves here. ``progress`` runs from 0 to 1."""

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in inspect.signature(type(self)).parameters)

    def begun(self, part: nn.Module | None) -> nn.Module:
        """Returns a part that ``begin`` makes, or says that it was not called."""
        if part is None:
            name = type(self).__name__
            raise RuntimeError(
                f"{name} has not begun: what it learns beside the model takes its width from the model. "
                f"Call objective.begin(model, model(images[:2])) once before the first step."
            )
        return part


def freeze_projector(model: nn.Module, name: str) -> None:
    """Freezes the model's projector, and warns where there is one, for an objective that does not use it."""
    unused = [p for p in getattr(model, "projector", nn.Identity()).parameters() if p.requires_grad]
    if unused:
        warnings.warn(
            f"{name} trains the representation and uses no projector: the model's ({sum(p.numel() for p in unused):,} "
            f"parameters) is frozen as it is. Give the model an empty one, Projector([]), to leave it out.",
            stacklevel=3,
        )
    for p in unused:
        p.requires_grad_(requires_grad=False)


def positive(name: str, value: int | float) -> int | float:
    """Returns ``value``, or says that it must be a number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number above 0, but got {value!r}.")
    if not value > 0:
        raise ValueError(f"{name} must be above 0, but got {value}.")
    return value


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """Returns ``value``, or says what there is to choose from."""
    if value not in known:
        raise ValueError(f"{name} is one of {', '.join(map(repr, known))}, but got {value!r}.")
    return value


def two_views(views: Views, name: str) -> tuple[Tensor, Tensor]:
    """Returns the two views, or says what is missing."""
    if len(views.images) != 2:
        raise ValueError(f"{name} compares two views of each image, but got {len(views.images)}; use a view maker with n=2.")
    return tuple(checked(views, name))


def checked(views: Views, name: str, *, views_at_least: int = 2, images_at_least: int = 2) -> list[Tensor]:
    """Returns the views where there are enough of them, of the same images, or says what is missing."""
    if len(views.images) < views_at_least:
        raise ValueError(
            f"{name} compares at least {views_at_least} views of each image, but got {len(views.images)}; "
            f"use a view maker with n={views_at_least}."
        )
    sizes = [len(x) for x in views.images]
    if len(set(sizes)) > 1:
        raise ValueError(f"{name} needs views of the same images, but the views hold {sizes} images.")
    if sizes[0] * world() < images_at_least:
        raise ValueError(f"{name} needs at least {images_at_least} images in a batch, but got {sizes[0]}; raise batch_size.")
    return views.images


def embed(model: nn.Module, images: Sequence[Tensor]) -> list[Embedding]:
    """Returns the embeddings of each view, every view by itself, in float32 or better."""
    return [_embedding(model, x) for x in images]


def embed_together(model: nn.Module, images: Sequence[Tensor]) -> list[Embedding]:
    """Returns the embeddings of each view; views of one size pass as one batch, so BatchNorm sees them together."""
    out: list[Embedding] = [None] * len(images)  # type: ignore[list-item]
    for shape in dict.fromkeys(x.shape for x in images):
        where = [i for i, x in enumerate(images) if x.shape == shape]
        h, z = _embedding(model, torch.cat([images[i] for i in where]))
        for i, hi, zi in zip(where, h.chunk(len(where)), z.chunk(len(where)), strict=True):
            out[i] = Embedding(hi, zi)
    return out


def _embedding(model: nn.Module, x: Tensor) -> Embedding:
    out = model(x)
    if not (hasattr(out, "h") and hasattr(out, "z")):
        raise TypeError(
            f"the model must return Embedding(h, z), but {type(model).__name__} returned a {type(out).__name__}; "
            f"wrap the network as workbench.Encoder(backbone, projector)."
        )
    return Embedding(_full(out.h), _full(out.z))


def _full(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x


def in_full_precision(term: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Computes a term outside autocast, with half-precision tensors raised to float32: statistics need the digits."""

    @functools.wraps(term)
    def computed(*tensors: Any, **settings: Any) -> Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return term(*map(_full, tensors), **{k: _full(v) for k, v in settings.items()})

    return computed


def off_diagonal(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    r"""Sum of the squared off-diagonal entries of :math:`A^\top B`.

    With fewer rows than columns the n x n Gram matrices give the same number for n/d of the work:
    :math:`\|A^\top B\|_F^2 = \langle A A^\top, B B^\top \rangle`.
    """
    n, d = a.shape
    if n < d:
        return ((a @ a.T) * (b @ b.T)).sum() - (a * b).sum(0).square().sum()
    c = a.T @ b  # d d
    return (c - c.diagonal().diag()).square().sum()


def cosine(a: Float[Tensor, "n k"], b: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean cosine of the angle between the rows of ``a`` and of ``b``, from -1 to 1."""
    return (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1).mean()


@torch.no_grad()
def sample_embedding(model: nn.Module, channels: int, height: int, width: int) -> Embedding:
    """Returns what ``model`` gives for two black images, for :meth:`Objective.begin`; the model stays as it was."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        return model(torch.zeros(2, channels, height, width, device=device))
    finally:
        model.train(training)
