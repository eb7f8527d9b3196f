r"""HFS: any objective, and that every combination of the values that its codes take should occur.

.. math:: L = L_{\mathrm{objective}} + \gamma \sum_{(p, q) \in P} \max_{i, j} \min_k
    \big[(z_{ip} - z_{kp})^2 + (z_{jq} - z_{kq})^2\big]

with :math:`z` the codes of a batch (of a variational autoencoder their means) and P some pairs of their dimensions, drawn anew at
every step: the squared Hausdorff distance between the codes and the product of what each dimension takes. Factors of the world
may go together, as long as no combination is impossible; independence, which beta-VAE and others ask for, is more.

The authors' models are ``HFS(BetaVAE(beta=...))``, also with ``beta=0``, and ``HFS(BetaTCVAE(...))``; ``HFS(SimCLR())`` is ours.

References:
    Disentanglement of Correlated Factors via Hausdorff Factorized Support (Roth et al., 2023), section 3,
    https://arxiv.org/abs/2210.07347
"""

from typing import Any

import torch
import torch.nn as nn
from jaxtyping import Int
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.distributed import from_first, gather
from workbench.measures.support import hausdorff_loss
from workbench.objectives.base import Objective, in_full_precision, positive
from workbench.objectives.betavae import BetaVAE

__all__ = ["HFS"]

measured = in_full_precision(hausdorff_loss)


class HFS(Objective):
    """Adds Hausdorff factorised support of the embedding ``z`` to an objective, in whose terms it then stands.

    Arguments:
        objective: Any that embeds images by its model; by default ``BetaVAE(beta=1)``.
        weight: The paper's gamma. Its grid is .1 to 1e4, and 80 to 2000 with ``beta=0``, beside a reconstruction summed over
            64 x 64 x 3 pixels: smaller images want proportionally less. Beside a contrastive loss of a few nats even 1 is
            much: 25 pairs come to about 100 at first.
        pairs: How many pairs of dimensions are drawn a step; None is all.
        rows: How many codes are looked at, those of the first images of a batch, in their first view; time grows as their cube.
        standardise: Whether codes are divided by their standard deviations over the batch first. None does so where nothing
            else holds their scale, so that shrinking them is no way out, and not of an autoencoder's, as in the authors' code:
            there it would blow up dimensions that the code has given up.

    Terms: those of the objective, and ``hfs``, at least 0, the sum over pairs.
    """

    takes = BetaVAE.takes
    code = BetaVAE.code

    def __init__(
        self,
        objective: Objective | None = None,
        *,
        weight: float = 1.0,
        pairs: int | None = 25,
        rows: int = 64,
        standardise: bool | None = None,
    ) -> None:
        super().__init__()
        self.objective = BetaVAE(beta=1) if objective is None else objective
        if not isinstance(self.objective, Objective):
            raise TypeError(f"HFS is added to an objective, such as SimCLR(), but got {objective!r}.")
        self.takes, self.code = self.objective.takes, self.objective.code
        self.undecayed = tuple(f"objective.{part}" for part in self.objective.undecayed)
        self.weight, self.rows, self.standardise = positive("weight", weight), positive("rows", rows), standardise
        self.pairs = None if pairs is None else positive("pairs", pairs)

    def read(self, factors: Any) -> None:
        self.objective.read(factors)

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        self.objective.begin(model, sample)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        kept: list[Tensor] = []
        hook = model.register_forward_hook(lambda module, images, embedding: kept.append(embedding.z))
        try:
            terms = self.objective(model, views)
        finally:
            hook.remove()
        if not kept:
            name = type(self.objective).__name__
            raise TypeError(f"HFS is of the codes that an objective has its model embed, but {name} never calls its model.")
        standardise = self.code is None if self.standardise is None else self.standardise
        z = gather(torch.cat(kept)[: len(views.images[0])])[: self.rows]
        hfs = measured(z, pairs=self.drawn(z), standardise=standardise)
        return {**terms, "loss": terms["loss"] + self.weight * hfs, "hfs": hfs}

    def after_step(self, model: nn.Module, progress: float) -> None:
        self.objective.after_step(model, progress)

    def drawn(self, z: Tensor) -> Int[Tensor, "p two"]:
        """Returns pairs of the dimensions of codes, drawn from torch's global generator, the same on all processes."""
        every = torch.triu_indices(z.shape[1], z.shape[1], 1, device=z.device).T
        if self.pairs is None or self.pairs >= len(every):
            return every
        return every[from_first(torch.randperm(len(every), device=z.device))[: self.pairs]]
