r"""What a small network reads from features: a probe with hidden layers, stopped before it learns the rows by heart.

.. math:: \hat y = \mathrm{softmax}(W_L \, \mathrm{ReLU}(\dots \mathrm{ReLU}(W_1 x + b_1) \dots) + b_L)

What it reads beyond the linear probe is in the features, but not laid out for a linear map; report the two side by side.

References:
    A Cookbook of Self-Supervised Learning (Balestriero et al., 2023), section 3, https://arxiv.org/abs/2304.12210
    Early Stopping, but When? (Prechelt, 1998)
    Understanding the difficulty of training deep feedforward neural networks (Glorot, Bengio, 2010), eq. 16, for the weights
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from workbench.estimators import Classifier, Labels, Matrix, as_classes, as_matrix, standardise

__all__ = ["MLPProbe"]


class MLPProbe(Classifier):
    """A network of hidden layers with ReLU on standardised features, trained by Adam and stopped early.

    A tenth of the rows of each class is held out (none of a class of fewer than ten); after every epoch they are scored, and the
    weights of the best epoch are kept. Where none are held out, as of few shots, all epochs are trained. It trains where the
    features are.

    Arguments:
        hidden: Widths of the hidden layers. RankMe's probe has three layers of weights: ``(2048, 2048)``.
        lr: Of Adam.
        weight_decay: Decoupled, of all weights.
        batch_size: Rows a step.
        epochs: At most so many.
        patience: Epochs without a better score (by 1e-4) after which it stops.
        held_out: Share of each class that is held out, from 0 (never stop early) to below 1.
        seed: Of the initial weights, of what is held out and of the order of the rows.

    Attributes:
        classes_: The classes, sorted.
        network_: The trained network, of standardised features; ``mean_`` and ``scale_`` are those of all training rows.
        epochs_: Epochs taken.
        best_: The best score of the held-out rows, NaN without any.

    Example:
        >>> x = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
        >>> y = [0, 1, 1, 0]  # no line tells these apart
        >>> MLPProbe((32,), lr=0.05, held_out=0).fit(x, y).score(x, y)
        1.0
    """

    def __init__(
        self,
        hidden: Sequence[int] = (256,),
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int = 256,
        epochs: int = 100,
        patience: int = 10,
        held_out: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.hidden, self.lr, self.weight_decay, self.batch_size = hidden, lr, weight_decay, batch_size
        self.epochs, self.patience, self.held_out, self.seed = epochs, patience, held_out, seed

    def fit(self, X: Matrix, y: Labels) -> Self:
        """Fits rows (N, D) to classes (N), whatever their type.

        Raises:
            ValueError: If the rows are not finite, do not match ``y``, are of one class, or a setting is out of its range.
        """
        self._check()
        x, (self.classes_, y) = as_matrix(X), as_classes(y, len(X))
        columns, self.mean_, self.scale_ = standardise(x)
        x, y = columns.T.contiguous(), y.to(x.device)
        order = torch.Generator().manual_seed(self.seed)
        held = self._held_out(y.cpu(), order).to(x.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = self._network(x.shape[1]).to(x)
        with torch.enable_grad():
            self.network_, self.epochs_, self.best_ = self._train(net, x[~held], y[~held], x[held], y[held], order)
        self.n_features_in_ = x.shape[1]
        return self

    def _check(self) -> None:
        for name, least in (("batch_size", 1), ("epochs", 1), ("patience", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, but is {getattr(self, name)!r}.")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is a share of the rows, from 0 to below 1, but is {self.held_out!r}.")
        if isinstance(self.hidden, int) or not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"hidden are widths of at least 1, such as (256,), but is {self.hidden!r}; without any, use LinearProbe."
            )

    def _held_out(self, y: Tensor, order: torch.Generator) -> Tensor:
        """Returns which rows are held out: the share of every class, rounded down."""
        rows = torch.randperm(len(y), generator=order)
        held = torch.zeros(len(y), dtype=torch.bool)
        for k in range(len(self.classes_)):
            own = rows[y[rows] == k]
            held[own[: int(self.held_out * len(own))]] = True
        return held

    def _network(self, width: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for a, b in pairwise([width, *self.hidden]):
            layers += [nn.Linear(a, b), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Linear(self.hidden[-1], len(self.classes_)))
        for layer in net[::2]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        return net

    def _train(
        self, net: nn.Sequential, x: Tensor, y: Tensor, held: Tensor, y_held: Tensor, order: torch.Generator
    ) -> tuple[nn.Sequential, int, float]:
        adam = torch.optim.AdamW(net.parameters(), self.lr, weight_decay=self.weight_decay, fused=True)
        scores, kept, waited = [], net, 0
        for _ in range(self.epochs):
            for rows in torch.randperm(len(x), generator=order).to(x.device).split(self.batch_size):
                adam.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                adam.step()
            with torch.no_grad():
                score = float((net(held).argmax(1) == y_held).float().mean())  # NaN of no rows
            best = max(scores, default=-1.0)
            scores.append(score)
            waited = waited + 1 if score <= best + 1e-4 else 0
            kept = copy.deepcopy(net) if score > best else kept
            if waited >= self.patience:
                break
        return kept.requires_grad_(requires_grad=False), len(scores), max(scores)

    def _logits(self, X: Matrix) -> Tensor:
        x = as_matrix(X, like=self).to(self.mean_)
        return self.network_((x - self.mean_) / self.scale_)
