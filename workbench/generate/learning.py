r"""Training a denoiser of representations as any other model: what is trained, what it is given, and what it is asked.

Beside the weights that are trained stand their moving average, of which images are drawn,

.. math:: \xi \leftarrow d_k \, \xi + (1 - d_k) \, \theta, \qquad d_k = \min\left(d, \frac{1 + k}{10 + k}\right)

with :math:`\theta` the weights after step k: short trainings forget where they began, long ones average over 1 / (1 - d) steps.

References:
    Denoising Diffusion Probabilistic Models (Ho, Jain and Abbeel, 2020), section 4, https://arxiv.org/abs/2006.11239
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from workbench.core import Embedding, Views
from workbench.generate.representations import Representation
from workbench.objectives.base import Objective
from workbench.objectives.denoising import diffusion_loss, noised
from workbench.views.plain import Plain

if TYPE_CHECKING:
    from workbench.generate.rcdm import RCDMPipeline

__all__ = ["Conditioned", "Denoiser", "Denoising"]


class Denoiser(nn.Module):
    """What :func:`build_denoiser` makes, as a model that a :class:`Trainer` trains and a :class:`Run` keeps.

    Arguments:
        features_dim, image_size, widths, channels, layers, attention, hidden, prediction, conditioning, tokens: As of
            :func:`build_denoiser`.
        source: Of the representations, see :class:`Representation`; :meth:`of` and :meth:`standardise` set it.
        guided: As of :class:`RCDMPipeline`; training sets it.

    Raises:
        ValueError: As :func:`build_denoiser`; in ``forward`` and ``predict``, if images have other channels or another size.

    Example:
        >>> model = Denoiser(8, 16, (8, 16))
        >>> model(torch.rand(2, 3, 16, 16)).h.shape  # what it sees itself: the middle of the network, averaged over space
        torch.Size([2, 16])
    """

    def __init__(
        self,
        features_dim: int,
        image_size: int,
        widths: Sequence[int] = (32, 64),
        *,
        channels: int = 3,
        layers: int = 1,
        attention: int = 0,
        hidden: int | None = None,
        prediction: str = "flow",
        conditioning: str = "adagn",
        tokens: int | None = None,
        source: dict[str, Any] | None = None,
        guided: bool = True,
    ) -> None:
        from workbench.generate.rcdm import build_denoiser

        super().__init__()
        self.features_dim, self.image_size, self.widths, self.channels = features_dim, image_size, tuple(widths), channels
        self.layers, self.attention, self.hidden = layers, attention, hidden
        self.prediction, self.conditioning, self.tokens, self.source = prediction, conditioning, tokens, source
        self.guided = guided
        shape = {"channels": channels, "layers": layers, "attention": attention, "hidden": hidden}
        self.drawing = build_denoiser(
            features_dim, image_size, self.widths, **shape, prediction=prediction, conditioning=conditioning, tokens=tokens
        )
        self.unet, self.projector = self.drawing.unet, self.drawing.projector
        self.average = nn.ModuleDict({"unet": copy.deepcopy(self.unet), "projector": copy.deepcopy(self.projector)})
        self.average.requires_grad_(requires_grad=False).eval()
        self._say_source()

    @classmethod
    def of(
        cls,
        h: Representation | Float[Tensor, "n *d"],
        image_size: int,
        widths: Sequence[int] = (32, 64),
        **settings: Any,
    ) -> "Denoiser":
        """Returns an untrained one for these representations, standardised by theirs and for no others.

        Example:
            A training::

                h = wb.represent(encoder, images, "backbone")
                model = wb.Denoiser.of(h, image_size=16)
                trainer = wb.Trainer(epochs=4, batch_size=64, lr=2e-3, weight_decay=0)
                run = trainer.fit(model, wb.Denoising(), images, wb.Conditioned(h), out="runs/rcdm")
                run.model().pipeline()(h[:4], num_images_per_rep=8, num_inference_steps=20).images
        """
        h = h if isinstance(h, Representation) else Representation(h)
        tokens = h.values.shape[1] if h.values.ndim == 3 else None
        return cls(h.values.shape[-1], image_size, widths, tokens=tokens, **settings).standardise(h)

    def standardise(self, h: Representation | Float[Tensor, "n d"]) -> "Denoiser":
        """Keeps these rows' mean, standard deviation and source, as of :class:`RepresentationProjector`; returns itself."""
        for projector in (self.projector, self.average["projector"]):
            projector.standardise(h)
        self.source = dict(self.projector.config.source or {}) or None
        return self

    def train(self, mode: bool = True) -> "Denoiser":  # noqa: FBT001, FBT002
        super().train(mode)
        self.average.eval()
        return self

    def predict(self, x: Float[Tensor, "b c h w"], time: Tensor, h: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Returns what the trained weights say of noisy images, as :meth:`RCDMPipeline.predict`."""
        wanted = (self.channels, self.image_size, self.image_size)
        if tuple(x.shape[1:]) != wanted:
            raise ValueError(
                f"the denoiser draws images (channels, height, width) of {wanted}, but is shown {tuple(x.shape[1:])}; take "
                f"wb.Conditioned(h, size={self.image_size}), or make it for images of that shape"
            )
        return self.drawing.predict(x, time, h, dropped)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Embedding:
        """Returns the middle of the network for images in [0, 1] with hardly any noise and no representation, twice: a code."""
        kept = []
        hook = self.unet.mid_block.register_forward_hook(lambda _module, _given, out: kept.append(out))
        try:
            nothing = torch.zeros(len(x), *self.projector.shape, device=x.device, dtype=x.dtype)
            dropped = torch.ones(len(x), dtype=torch.bool, device=x.device)
            least = torch.full((len(x),), 2e-3 if self.prediction == "edm" else 0.0, device=x.device)
            seen, time, _ = noised(2 * x - 1, torch.zeros_like(x), least, self.prediction)
            self.predict(seen, time, nothing, dropped)
        finally:
            hook.remove()
        h = kept[0].mean((2, 3))
        return Embedding(h, h)

    def pipeline(self, *, averaged: bool = True) -> "RCDMPipeline":
        """Returns what draws: of the averaged weights, or of those that are trained. It shares them with this model."""
        from workbench.generate.rcdm import RCDMPipeline

        self._say_source()
        parts = self.average if averaged else {"unet": self.unet, "projector": self.projector}
        scheduler = type(self.drawing.scheduler).from_config(self.drawing.scheduler.config)
        settings = {"prediction": self.prediction, "conditioning": self.conditioning, "guided": self.guided}
        return RCDMPipeline(parts["unet"], parts["projector"], scheduler, **settings)

    @torch.no_grad()
    def follow(self, share: float | Tensor) -> None:
        """Moves the average by ``share`` (from 0 to 1) of the way to the trained weights; running statistics are copied."""
        follower = [*self.average["unet"].parameters(), *self.average["projector"].parameters()]
        leader = [*self.unet.parameters(), *self.projector.parameters()]
        torch._foreach_mul_(follower, 1 - share)
        torch._foreach_add_(follower, torch._foreach_mul(leader, share))
        copies = [*self.average["unet"].buffers(), *self.average["projector"].buffers()]
        for kept, new in zip(copies, [*self.unet.buffers(), *self.projector.buffers()], strict=True):
            kept.copy_(new)

    def _say_source(self) -> None:
        for projector in (self.projector, self.average["projector"]):
            projector.register_to_config(source=self.source)


class Conditioned:
    """Gives every image one view, and beside it, in ``actions``, its ``representation``: row i of ``h`` is of image i.

    The representations were taken once, of the images as they are: views that change more than their size would be drawn of
    representations of something else.

    Arguments:
        h: A row for every image that is trained on.
        size: Side of the view in pixels; None keeps that of the images.

    Raises:
        TypeError: If ``h`` is neither a :class:`Representation` nor a tensor.
        IndexError: When called, if there is an image without a row.
    """

    def __init__(self, h: Representation | Float[Tensor, "n d"], *, size: int | None = None) -> None:
        if not isinstance(h, Representation | Tensor):
            raise TypeError(f"images are given wb.represent(...) of them or a tensor (images, D), but got {type(h).__name__}")
        self.h, self.size = h if isinstance(h, Representation) else Representation(h), size
        self._rows, self._plain = self.h.values, Plain(1, size=size)

    def __call__(self, pixels: Tensor, index: Tensor) -> Views:
        """Returns the view (B, C, size, size) in [0, 1] of uint8 pixels (B, C, H, W), and rows ``index`` of ``h``."""
        if self._rows.device != index.device and index.device.type != "cpu":
            self._rows = self._rows.to(index.device)  # beside the pixels, once, so that no step waits
        if index.device.type == "cpu" and int(index.max()) >= len(self._rows):
            raise IndexError(
                f"there is no representation of image {int(index.max())}: row i is of image i, and h has {len(self.h)}"
            )
        rows = self._rows[index.to(self._rows.device)].to(pixels.device)
        return self._plain(pixels, index)._replace(actions=[{"representation": Representation(rows, self.h.source)}])


class Denoising(Objective):
    """Asks a :class:`Denoiser` for what was added to images, see :func:`diffusion_loss`, and averages its weights.

    Arguments:
        null: Share of the images, from 0 to 1, whose representation is withheld, so that samples can be guided; else not.
        decay: d of the average, from 0 (none) to 1 (it never moves).

    Raises:
        ValueError: If one lies outside its range.
        TypeError: When called, if the model is no denoiser or the views bring no representations.
        ValueError: When called, if they are not those that the denoiser was made for.
    """

    takes = 1

    def __init__(self, null: float = 0.1, decay: float = 0.9999) -> None:
        super().__init__()
        for name, value in {"null": null, "decay": decay}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"Denoising's {name} lies from 0 to 1, but got {value}.")
        self.null, self.decay = null, decay
        self.register_buffer("taken", torch.zeros(()))  # steps, for the average

    def begin(self, model: Denoiser, sample: Embedding) -> None:
        model.guided = self.null > 0

    def forward(self, model: Denoiser, views: Views) -> dict[str, Tensor]:
        if not hasattr(model, "predict"):
            raise TypeError(f"Denoising trains a wb.Denoiser, but got a {type(model).__name__}.")
        if not views.actions or "representation" not in views.actions[0]:
            raise TypeError("Denoising needs the representation of every image beside it: take views from wb.Conditioned(h).")
        h = views.actions[0]["representation"]
        return {"loss": diffusion_loss(model.predict, views.images[0], h, prediction=model.prediction, null=self.null)}

    def after_step(self, model: Denoiser, progress: float) -> None:
        self.taken += 1
        model.follow(1 - ((1 + self.taken) / (10 + self.taken)).clamp(max=self.decay))
