r"""SimCLR: find the other view of an image among all other views in the batch.

For the 2N unit embeddings :math:`u` of N images, with :math:`p(i)` the other view of the image of row :math:`i`,

.. math:: L = -\frac{1}{2N} \sum_i \log
    \frac{\exp(u_i \cdot u_{p(i)} / \tau)}{\sum_{k \neq i} \exp(u_i \cdot u_k / \tau)}

so every row has one positive and 2N - 2 negatives, the second view of the other images and the first. Where public codes
disagree we follow the authors': the negatives of both views count (DirectCLR's InfoNCE has the N - 1 across views alone), and
both views pass the network as one batch, so BatchNorm sees them together. Their code sums the two views' means; the paper's
equation, and we, average them.

Variants, by argument: DCL leaves the positive out of the sum below; in SimCLR-abs and SimCLR-sq (and in DCL's) the negatives
count with :math:`|u_i \cdot u_k|` and :math:`(u_i \cdot u_k)^2`, so that they become orthogonal, not opposite; "A" centres every
dimension over the batch before embeddings are scaled to length 1, "B" standardises it instead of that, so that its length is
:math:`\sqrt{N/M}`. With ``drawn``, row i has not all other rows below, but a random set :math:`K_i` of so many of the 2N - 2
negatives, drawn for each row anew at every step:

.. math:: L = -\frac{1}{2N} \sum_i \log
    \frac{\exp(u_i \cdot u_{p(i)} / \tau)}{\exp(u_i \cdot u_{p(i)} / \tau) + \sum_{k \in K_i} \exp(u_i \cdot u_k / \tau)}

down to one, where a row's term is the softplus of :math:`(u_i \cdot u_k - u_i \cdot u_{p(i)}) / \tau`.

References:
    A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., 2020), eq. 1,
    https://arxiv.org/abs/2002.05709
    Decoupled Contrastive Learning (Yeh et al., 2022), eq. 6, https://arxiv.org/abs/2110.06848
    On the Duality Between Contrastive and Non-Contrastive Self-Supervised Learning (Garrido et al., 2023), section 3 (-abs, -sq),
    eq. 14 and table 1 (A, B), https://arxiv.org/abs/2206.02574
    Towards Democratizing Joint-Embedding Self-Supervised Learning (Bordes et al., 2023), abstract (one negative; that it is drawn
    so is our reading), https://arxiv.org/abs/2303.01986
"""

from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.core import Views
from workbench.distributed import gather, rank, world
from workbench.objectives.base import Objective, embed_together, in_full_precision, one_of, positive, two_views
from workbench.objectives.masking import noise

__all__ = ["SimCLR"]


@in_full_precision
def nt_xent(
    z1: Float[Tensor, "n k"],
    z2: Float[Tensor, "n k"],
    all1: Float[Tensor, "m k"] | None = None,
    all2: Float[Tensor, "m k"] | None = None,
    *,
    temperature: float,
    first: int = 0,
    negatives: Literal["cosine", "abs", "sq"] = "cosine",
    decoupled: bool = False,
    unit: bool = True,
    among: Bool[Tensor, "2n 2m"] | None = None,
) -> Float[Tensor, ""]:
    """Normalised-temperature cross-entropy of two views, in nats; log(2n - 1) where all embeddings are one point.

    Arguments:
        z1, z2: Row i of each is a view of image i.
        all1, all2: What to look among, where that is more: the batch of all processes, of which z1 and z2 are the rows from
            ``first`` on. Each process then holds 2n x 2m similarities, not 2m x 2m.
        temperature: Divides the similarities.
        negatives: Whether other images count with their cosine, its magnitude or its square.
        decoupled: Whether the positive is left out of the sum over which it is sought.
        unit: Whether embeddings are scaled to length 1 first.
        among: Which rows count as negatives of which, of the two views one after the other; by default all but the row itself
            and its partner, which never do.
    """
    all1, all2 = (z1, z2) if all1 is None or all2 is None else (all1, all2)
    n, m = len(z1), len(all1)
    own, others = torch.cat([z1, z2]), torch.cat([all1, all2])
    if unit:
        own, others = F.normalize(own, dim=1), F.normalize(others, dim=1)
    row = torch.arange(2 * n, device=z1.device)
    itself = row % n + first + m * (row // n)
    partner = (itself + m) % (2 * m)
    if negatives == "cosine":
        logits = (own / temperature) @ others.T  # 2n 2m
    else:
        similarity = own @ others.T
        magnitude = similarity.abs() if negatives == "abs" else similarity.square()
        logits = magnitude.index_put((row, partner), similarity[row, partner]) / temperature
    positive = logits[row, partner]
    if among is not None:
        logits = logits.masked_fill(~among.index_put((row, partner), among.new_ones(())), -torch.inf)
    with torch.no_grad():  # the softmax gives these entries no gradient anyway; recording it would copy the largest tensor
        logits[row, itself] = -torch.inf
        if decoupled:
            logits[row, partner] = -torch.inf
    return (logits.logsumexp(1) - positive).mean() if decoupled else F.cross_entropy(logits, partner)


@in_full_precision
def normalised_dimensions(z: Float[Tensor, "n m"], *, scale: bool) -> Float[Tensor, "n m"]:
    """Subtracts from every dimension its mean over the batch; with ``scale`` its length becomes sqrt(n / m) too (eq. 14)."""
    z = z - z.mean(0)
    return F.normalize(z, dim=0) * (len(z) / z.shape[1]) ** 0.5 if scale else z


def drawn_negatives(z: Float[Tensor, "n k"], k: int) -> Bool[Tensor, "2n 2m"]:
    """Returns ``k`` of the 2m - 2 negatives of every row, the same however many processes share the batch of m images.

    Raises:
        ValueError: If there are not so many.
    """
    n, m, first = len(z), len(z) * world(), rank() * len(z)
    if k > 2 * m - 2:
        raise ValueError(f"{k} negatives were to be drawn, but {m} images have {2 * m - 2}; raise batch_size, or lower drawn.")
    chance = noise(z, 4 * m).view(n, 2, 2 * m).transpose(0, 1).flatten(0, 1)  # 2n 2m
    row = torch.arange(2 * n, device=z.device)
    image = row % n + first
    chance[row, image] = chance[row, image + m] = -1
    return torch.zeros_like(chance, dtype=torch.bool).scatter_(1, chance.topk(k).indices, value=True)


class SimCLR(Objective):
    """SimCLR on the embedding ``z``, and with ``decoupled=True`` DCL.

    Its authors' projector is ``Projector([2048, 2048, 128], norm_last=True)``.

    Arguments:
        temperature: Above 0; the paper's 0.1 for ImageNet, 0.5 for CIFAR-10. (Garrido et al. find 0.15 best at 100 epochs.)
        negatives: ``"cosine"``, or ``"abs"`` and ``"sq"`` for SimCLR-abs and SimCLR-sq.
        decoupled: Whether the positive is left out of the denominator: DCL (with ``negatives``, DCL-abs and DCL-sq).
        dimensions: ``"free"``, or ``"centred"`` (Garrido et al.'s A) or ``"standardised"`` (B) over the batch.
        drawn: How many negatives a view has, drawn anew at every step from those of the batch; None is all 2N - 2.

    Terms: ``loss``, from 0 up to about 2 / temperature + log(2N) (decoupled, it may fall below 0).
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        negatives: Literal["cosine", "abs", "sq"] = "cosine",
        decoupled: bool = False,
        dimensions: Literal["free", "centred", "standardised"] = "free",
        drawn: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.negatives = one_of("negatives", negatives, ("cosine", "abs", "sq"))
        self.decoupled = decoupled
        self.dimensions = one_of("dimensions", dimensions, ("free", "centred", "standardised"))
        if drawn is not None and positive("drawn", drawn) != int(drawn):
            raise ValueError(f"drawn is a whole number of negatives, or None for all of them, but got {drawn}.")
        self.drawn = drawn

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        z1, z2 = (e.z for e in embed_together(model, two_views(views, "SimCLR")))
        all1, all2, first = gather(z1), gather(z2), rank() * len(z1)
        if self.dimensions != "free":
            scale = self.dimensions == "standardised"
            all1, all2 = (normalised_dimensions(z, scale=scale) for z in (all1, all2))
            z1, z2 = (z[first : first + len(z1)] for z in (all1, all2))
        among = None if self.drawn is None else drawn_negatives(z1, self.drawn)
        how = {
            "among": among,
            "negatives": self.negatives,
            "decoupled": self.decoupled,
            "unit": self.dimensions != "standardised",
        }
        return {"loss": nt_xent(z1, z2, all1, all2, temperature=self.temperature, first=first, **how)}
