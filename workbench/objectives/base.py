"""What every objective is: a module from a model and a batch of views to named scalar terms."""

import abc

import torch
import torch.nn as nn
from torch import Tensor

from workbench.core import Embedding, Views

__all__ = ["Objective"]


class Objective(nn.Module, abc.ABC):
    """Turns a model and a batch of views into named scalar terms, the one to descend called ``"loss"``.

    What it learns beside the model (a predictor, a teacher, prototypes) are its own parameters and buffers. Widths that
    depend on the model are made in ``begin``, so that an objective is written before its model is known.
    """

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


def two_views(views: Views, name: str) -> tuple[Tensor, Tensor]:
    """Returns the first two views, or says what is missing."""
    if len(views.images) < 2:
        raise ValueError(f"{name} compares two views of each image, but got {len(views.images)}; use a view maker with n=2.")
    if len(views.images[0]) < 2:
        raise ValueError(f"{name} needs at least 2 images in a batch, but got {len(views.images[0])}; raise batch_size.")
    return views.images[0], views.images[1]


@torch.no_grad()
def sample_embedding(model: nn.Module, channels: int, height: int, width: int) -> Embedding:
    """Returns what ``model`` gives for two black images, for :meth:`Objective.begin`; the model stays as it was."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        return model(torch.zeros(2, channels, height, width, device=device))
    finally:
        model.train(training)
