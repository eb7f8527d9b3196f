r"""MoCo v3: find, among a batch of a slowly moving teacher's keys, the one of the other view of the same image.

With :math:`q` the predictor's output for one view and :math:`k'` the teacher's embedding of the other, all scaled to length 1,

.. math:: \ell(q, k') = -\frac{1}{N} \sum_i \log \frac{\exp(q_i \cdot k'_i / \tau)}{\sum_j \exp(q_i \cdot k'_j / \tau)}, \qquad
    L = 2 \tau \, [\ell(q, k') + \ell(q', k)], \qquad
    \xi \leftarrow m \, \xi + (1 - m) \, \theta, \qquad
    m = 1 - (1 - m_0) \, \frac{\cos(\pi s / S) + 1}{2}

where the prime is the other view, :math:`\xi` are the teacher's parameters, :math:`\theta` the model's, and s the step of S. The
factor :math:`2 \tau` makes the loss less sensitive to the temperature. As in the authors' code each view passes by itself, the
teacher runs as in training (its BatchNorm uses the statistics of the batch), and the predictor ends in a BatchNorm without scale
and shift (their predictor for ResNets does without that norm).

References:
    An Empirical Study of Training Self-Supervised Vision Transformers (Chen, Xie and He, 2021), eq. 1, algorithm 1 and section
    4.2 for the frozen projection of patches, https://arxiv.org/abs/2104.02057
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.distributed import gather, rank
from workbench.objectives.base import embed, in_full_precision, positive, two_views
from workbench.objectives.teacher import Taught

__all__ = ["MoCoV3"]


@in_full_precision
def contrast(q: Float[Tensor, "n k"], keys: Float[Tensor, "m k"], *, temperature: float, first: int = 0) -> Float[Tensor, ""]:
    """Cross-entropy, in nats and times 2 tau, of finding row ``first + i`` of the keys by its cosine to row i of ``q``."""
    logits = (F.normalize(q, dim=1) / temperature) @ F.normalize(keys, dim=1).T  # n m
    return 2 * temperature * F.cross_entropy(logits, torch.arange(first, first + len(q), device=q.device))


class MoCoV3(Taught):
    """MoCo v3 on the embedding ``z``; its authors' is ``Projector([4096, 4096, 256], norm_last=True)`` on a vision transformer.

    Arguments:
        temperature: Above 0.
        momentum: The teacher's at the start; it rises to 1 at the end.
        hidden: Width of the predictor's hidden layer.
        frozen_patches: Whether a vision transformer keeps its random projection of patches, which steadies its training.

    The authors train with AdamW at lr 1.5e-4 for every 256 images of a batch and weight decay 0.1.

    Terms: ``loss``, from 0 up to about 8 + 4 tau log(N).
    """

    def __init__(
        self, *, temperature: float = 0.2, momentum: float = 0.99, hidden: int = 4096, frozen_patches: bool = False
    ) -> None:
        super().__init__(momentum=momentum)
        self.temperature, self.hidden, self.frozen_patches = positive("temperature", temperature), hidden, frozen_patches
        self.register_module("predictor", None)

    def begin(self, model: nn.Module, sample: Embedding) -> None:
        if self.frozen_patches:
            patch_projection(model).requires_grad_(requires_grad=False)
        width = sample.z.shape[1]
        self.predictor = nn.Sequential(
            nn.Linear(width, self.hidden, bias=False),
            nn.BatchNorm1d(self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        ).to(sample.z.device, torch.promote_types(sample.z.dtype, torch.float32))
        self.appoint(model)

    def forward(self, model: nn.Module, views: Views) -> dict[str, Tensor]:
        predictor, teacher = self.begun(self.predictor), self.begun(self.teacher)
        images = two_views(views, "MoCoV3")
        n, first = len(images[0]), rank() * len(images[0])
        q1, q2 = (predictor(gather(e.z))[first : first + n] for e in embed(model, images))
        with torch.no_grad():
            k1, k2 = (gather(e.z) for e in embed(teacher, images))
        there = contrast(q1, k2, temperature=self.temperature, first=first)
        back = contrast(q2, k1, temperature=self.temperature, first=first)
        return {"loss": there + back}


def patch_projection(model: nn.Module) -> nn.Module:
    """Returns the part of a vision transformer that projects patches, or says that there is none."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "patch_embed":
            return module
    kind = type(getattr(model, "backbone", model)).__name__
    raise TypeError(
        f"frozen_patches is for a vision transformer, which projects patches (patch_embed), but the model has a {kind}; "
        f"use build_encoder('vit-tiny', ...), or frozen_patches=False."
    )
