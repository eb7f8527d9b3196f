r"""Representation-conditioned diffusion (RCDM): images drawn so that they share one representation.

What stays from sample to sample is in the representation, what varies is not. Built of Hugging Face diffusers: a UNet that a
:class:`RepresentationProjector` conditions, and any of its schedulers that fits what the network predicts. Guidance by w goes
beyond the condition, away from what is predicted without one; 1 is no guidance:

.. math:: F_w(x_t, h) = F(x_t, \emptyset) + w \, (F(x_t, h) - F(x_t, \emptyset))

References:
    High Fidelity Visualization of What Your Self-Supervised Representation Knows About (Bordes, Balestriero and Vincent, 2022),
    https://arxiv.org/abs/2112.09164
    Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), https://arxiv.org/abs/2207.12598
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    ModelMixin,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.generate.annealing import annealed, share_kept
from workbench.generate.conditioning import RepresentationProjector
from workbench.generate.normalisation import BatchNormUNet
from workbench.generate.representations import Representation
from workbench.objectives.base import one_of
from workbench.objectives.denoising import PREDICTIONS, SIGMA_DATA, alphas_bar

__all__ = ["RCDMOutput", "RCDMPipeline", "build_denoiser"]

CONDITIONINGS = ("adagn", "cbn", "xattn")
UNETS = {
    "adagn": 'UNet2DModel with class_embed_type="identity"',
    "cbn": "BatchNormUNet",
    "xattn": "UNet2DConditionModel",
}
HEAD = 32  # numbers a head of attention to tokens
CONDITION = 512  # what the paper maps a representation to
SAYS = {"epsilon": "epsilon", "v": "v_prediction", "flow": "flow_prediction", "edm": "epsilon"}  # in diffusers' words
SCHEDULERS = {
    "flow": "FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, or one with prediction_type='flow_prediction' and "
    "use_flow_sigmas=True",
    "epsilon": "one with prediction_type='epsilon', such as DDIMScheduler",
    "v": "one with prediction_type='v_prediction', such as DDIMScheduler",
    "edm": "EDMEulerScheduler or EDMDPMSolverMultistepScheduler",
}


@dataclass
class RCDMOutput(BaseOutput):
    """``images`` as ``output_type`` says, and the ``representation`` that each was drawn of; None where of none."""

    images: Any
    representation: Tensor | None


class RCDMPipeline(DiffusionPipeline):
    """Draws images of representations; :func:`build_denoiser` makes one, ``save_pretrained`` and ``from_pretrained`` keep it.

    Arguments:
        unet: For ``"adagn"`` a ``UNet2DModel`` with ``class_embed_type="identity"``, for ``"cbn"`` a :class:`BatchNormUNet`, for
            ``"xattn"`` a ``UNet2DConditionModel``. If it says twice as many channels as it sees, the second half is its
            variance, for schedulers that take it.
        projector: As wide as what the UNet is told.
        scheduler: Any of diffusers that fits the prediction; ``pipe.scheduler = Other.from_config(pipe.scheduler.config)`` takes
            another.
        prediction: What the network was trained to say: ``"flow"``, ``"epsilon"``, ``"v"`` or ``"edm"``, see
            :func:`diffusion_loss`.
        conditioning: ``"adagn"``, ``"cbn"`` or ``"xattn"``, see :func:`build_denoiser`.
        guided: Whether representations were withheld in training; if none was, no images are drawn without and none are guided.

    Raises:
        ValueError: If the parts do not fit each other, or the images cannot be halved as often as the UNet does.
    """

    model_cpu_offload_seq = "projector->unet"

    def __init__(
        self,
        unet: ModelMixin,
        projector: RepresentationProjector,
        scheduler: Any,
        prediction: str = "flow",
        conditioning: str = "adagn",
        guided: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        super().__init__()
        one_of("prediction", prediction, PREDICTIONS)
        _check_parts(unet, projector, conditioning)
        self.register_modules(unet=unet, projector=projector, scheduler=scheduler)
        self.register_to_config(prediction=prediction, conditioning=conditioning, guided=guided)

    def predict(
        self,
        x: Float[Tensor, "b c h w"],
        time: Tensor,
        h: Float[Tensor, "b *d"] | Representation,
        dropped: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Returns what the network says of noisy images, with gradients; ``dropped`` rows are given no representation."""
        return self._said(x, time, self.projector(self.projector.take(h), dropped))[:, : x.shape[1]]

    def _said(self, x: Tensor, time: Tensor, told: Tensor) -> Tensor:
        if self.config.conditioning == "xattn":
            return self.unet(x, time, encoder_hidden_states=told).sample
        return self.unet(x, time, class_labels=told).sample

    @torch.no_grad()
    def __call__(
        self,
        representation: Float[Tensor, "b *d"] | Representation | None = None,
        *,
        num_images_per_rep: int = 1,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        annealing: float = 0.0,
        tau1: float = 0.6,
        tau2: float = 0.9,
        psi: float = 1.0,
        latents: Float[Tensor, "n c h w"] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
    ) -> RCDMOutput | tuple:
        """Returns ``num_images_per_rep`` images of every representation, those of a representation together.

        Arguments:
            representation: A row each, (B, D) or tokens (B, T, D); None for images of none at all (the learned null).
            num_images_per_rep: Samples of each.
            num_inference_steps: Of the scheduler.
            guidance_scale: 1 is the plain sample, in one pass a step; 0 forgets the representation; above 1 exaggerates it.
            eta: Fresh noise of DDIM's steps, from 0 (none) to 1 (that of DDPM); for schedulers that take one.
            annealing: Noise on the standardised representation, in its standard deviations, that fades while an image is
                drawn, see :mod:`workbench.generate.annealing`: more different images, which hold on to the representation less.
                0 is the plain sample.
            tau1, tau2: Where the noise ends and where it begins to fade, in shares of the steps that are still to be taken.
            psi: From 0 to 1, how far mean and standard deviation of a noisy representation are brought back to its own.
            latents: Noise of N(0, I) to start from, one an image, or ``num_images_per_rep`` that all representations share.
            generator: One, or one an image, which makes an image the same whatever it is drawn beside.
            output_type: ``"pt"`` (N, C, H, W) and ``"np"`` (N, H, W, C) in [0, 1], or ``"pil"``, a list.
            return_dict: Whether to return :class:`RCDMOutput`; else a tuple of the same.

        Raises:
            TypeError: If the representation is no tensor nor :class:`Representation`.
            ValueError: If it is of another width, encoder or layer, or not finite, if the scheduler does not fit what was
                trained, or if an argument lies outside its range.
        """
        one_of("output_type", output_type, ("pt", "np", "pil"))
        _check_annealing(annealing, tau1, tau2, psi)
        if not self.config.guided and (representation is None or guidance_scale != 1):
            raise ValueError(
                "no representation was withheld when this denoiser was trained, so that it draws nothing without one and "
                "cannot be guided: give a representation, and guidance_scale=1"
            )
        extra = self._step_arguments(eta, generator)
        channels = self.unet.config.out_channels if self._takes_variance() else self.unet.config.in_channels
        for name, value in {"num_images_per_rep": num_images_per_rep, "num_inference_steps": num_inference_steps}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is a whole number of at least 1, but got {value!r}")
        device = self._execution_device
        h = None if representation is None else self._taken(representation).to(device)
        h = None if h is None else h.repeat_interleave(num_images_per_rep, 0)
        n = num_images_per_rep if h is None else len(h)
        null = self.projector.nothing(n)
        z = None if h is None else self.projector.standardised(h)
        told = null if z is None else self.projector.tell(z)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        steps = len(self.scheduler.timesteps)
        x = self._start(n, num_images_per_rep, latents, generator, device) * getattr(self.scheduler, "init_noise_sigma", 1.0)
        with self.progress_bar(total=steps) as bar, _at_rest(self.unet, self.projector):
            for i, t in enumerate(self.scheduler.timesteps):
                if annealing and z is not None:
                    gamma = share_kept(1 - i / steps, tau1, tau2)
                    noise = randn_tensor(z.shape, generator=generator, device=device, dtype=z.dtype)
                    told = self.projector.tell(annealed(z, noise, gamma, strength=annealing, psi=psi))
                seen = self.scheduler.scale_model_input(x, t) if hasattr(self.scheduler, "scale_model_input") else x
                said = self._guided(seen, t, told, null, guidance_scale)[:, :channels]
                x = self.scheduler.step(said, t, x, **extra).prev_sample
                bar.update()
        self.maybe_free_model_hooks()
        images = _shown(x, output_type)
        return RCDMOutput(images=images, representation=h) if return_dict else (images, h)

    def _taken(self, representation: Tensor | Representation) -> Tensor:
        h = self.projector.take(representation)
        if not torch.isfinite(h).all():
            wrong = int((~torch.isfinite(h.flatten(1)).all(1)).sum())
            raise ValueError(f"images are drawn of finite representations, but {wrong} of these {len(h)} are not finite")
        return h

    def _guided(self, x: Tensor, t: Tensor, told: Tensor, null: Tensor, scale: float) -> Tensor:
        if scale in (0, 1):
            return self._said(x, t, told if scale == 1 else null)
        without, given = self._said(torch.cat([x, x]), t, torch.cat([null, told])).chunk(2)
        return without + scale * (given - without)

    def _takes_variance(self) -> bool:
        """Whether the scheduler reads a variance in the second half of the channels; raises if it does and there is none."""
        kind = self.scheduler.config.get("variance_type")
        takes = isinstance(self.scheduler, DDPMScheduler) and kind in ("learned", "learned_range")
        says, sees = self.unet.config.out_channels, self.unet.config.in_channels
        if takes and says == sees:
            raise ValueError(
                f"the network says noise alone, but {kind!r} wants its variance too; take variance_type='fixed_small'"
            )
        return takes

    def _start(
        self,
        n: int,
        per_rep: int,
        latents: Tensor | None,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device,
    ) -> Tensor:
        if isinstance(generator, list) and len(generator) != n:
            raise ValueError(f"give one generator, or one an image: {len(generator)} were given for {n} images")
        shape = (self.unet.config.in_channels, *_size(self.unet))
        if latents is None:
            return randn_tensor((n, *shape), generator=generator, device=device, dtype=self.unet.dtype)
        if tuple(latents.shape) not in ((n, *shape), (per_rep, *shape)):
            shared = f" or {(per_rep, *shape)}" if per_rep != n else ""
            raise ValueError(f"latents of these samples are {(n, *shape)}{shared}, but got {tuple(latents.shape)}")
        return latents.repeat(n // len(latents), 1, 1, 1).to(device, self.unet.dtype)

    def _step_arguments(self, eta: float, generator: Any) -> dict[str, Any]:
        """Returns what the scheduler's step takes beside the sample, once it is known to fit."""
        kind, wants = type(self.scheduler).__name__, self.config.prediction
        says = self.scheduler.config.get("prediction_type", "flow_prediction" if kind.startswith("FlowMatch") else None)
        if says != SAYS[wants] or kind.startswith("EDM") != (wants == "edm"):
            raise ValueError(f"the network predicts {wants!r}, but {kind} reads its answer as {says!r}; take {SCHEDULERS[wants]}")
        if wants == "flow" and not kind.startswith("FlowMatch") and not self.scheduler.config.get("use_flow_sigmas"):
            raise ValueError(
                f"{kind} reckons with other noise than was trained with, a straight line from image to noise; take "
                f"{kind}.from_config(config, prediction_type='flow_prediction', use_flow_sigmas=True)"
            )
        betas = getattr(self.scheduler, "alphas_cumprod", None)
        if wants in ("epsilon", "v") and not (
            betas is not None and torch.allclose(betas.cpu().double(), alphas_bar(), rtol=1e-3)
        ):
            raise ValueError(
                f"{kind} reckons with other noise than was trained with, betas evenly from .0001 to .02 in 1,000 steps; make it "
                f"by {kind}.from_config of the config of the scheduler that wb.build_denoiser gave"
            )
        takes = inspect.signature(self.scheduler.step).parameters
        if eta and "eta" not in takes:
            raise ValueError(f"eta={eta} is noise of DDIM's steps, but {kind} takes none; leave it 0, or take DDIMScheduler")
        return {name: value for name, value in {"eta": eta, "generator": generator}.items() if name in takes}


def build_denoiser(
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
) -> RCDMPipeline:
    """Returns an untrained denoiser of images, conditioned on representations, with a scheduler that fits its prediction.

    The smallest worth training, two levels of 32 and 64 filters, has .7 million parameters and is for 16 pixels on a processor.

    Arguments:
        features_dim: Of the representations.
        image_size: In pixels; a multiple of 2 for every level after the first.
        widths: Filters of each level; the image is halved from one to the next.
        channels: Of the images.
        layers: Residual blocks a level.
        attention: How many of the last levels, and the middle, attend over space too.
        hidden: Width of a hidden layer of the projector; None for a linear one.
        prediction: ``"flow"`` (Euler steps), ``"epsilon"`` or ``"v"`` (DDIM), ``"edm"`` (EDM's Euler steps).
        conditioning: How a residual block is told: ``"adagn"``, by adding a linear map of the representation to the embedding of
            time, which scales and shifts behind a GroupNorm (what the authors' code and weights do); ``"cbn"``, by conditional
            batch normalisation of 512 numbers (what the paper describes, see :class:`BatchNormUNet`); or ``"xattn"``, by
            attention to the tokens of a representation (B, T, D), in the middle and at least the last level.
        tokens: T, for ``"xattn"``.

    Raises:
        ValueError: If the images cannot be halved so often, a number is none, there is no such prediction or conditioning, or
            tokens are given without attention to them, or the reverse.

    Example:
        >>> pipe = build_denoiser(8, 16, (8, 16))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(torch.randn(2, 8), num_images_per_rep=3, num_inference_steps=2).images.shape
        torch.Size([6, 3, 16, 16])
    """
    one_of("prediction", prediction, PREDICTIONS)
    one_of("conditioning", conditioning, CONDITIONINGS)
    if (tokens is None) == (conditioning == "xattn"):
        raise ValueError(
            "with conditioning='xattn' attention is to the tokens of a representation (B, T, D): take them by "
            "wb.represent(model, images, layer, tokens='all'), and say tokens=T to wb.build_denoiser"
            if tokens is None
            else f"tokens go with conditioning='xattn'; {conditioning!r} is conditioned on one vector an image, tokens='mean'"
        )
    for name, value in {"image_size": image_size, "channels": channels, "layers": layers}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"a denoiser's {name} is a whole number of at least 1, but got {value!r}")
    whole = isinstance(widths, Sequence) and all(isinstance(width, Integral) and width > 0 for width in widths)
    if not whole or not 0 <= attention <= len(widths) or not widths:
        raise ValueError(
            f"widths are filters of at least one level, whole numbers such as (32, 64), and attention is at most as many levels, "
            f"but got {widths!r}, {attention}"
        )
    shape = {
        "sample_size": image_size,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": layers,
        "block_out_channels": tuple(widths),
        "norm_num_groups": math.gcd(min(32, min(widths) // 4), *widths),  # of at least 4 filters, where there are so many
    }
    if conditioning == "cbn":
        unet = BatchNormUNet(**shape, attention=attention, condition=CONDITION)
    elif conditioning == "xattn":
        attends = max(attention, 1)
        plain = len(widths) - attends
        unet = UNet2DConditionModel(
            **shape,
            down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * attends,
            up_block_types=("CrossAttnUpBlock2D",) * attends + ("UpBlock2D",) * plain,
            cross_attention_dim=4 * widths[0],
            attention_head_dim=tuple(width // math.gcd(width, HEAD) for width in widths),  # it counts heads, in spite of its name
            resnet_time_scale_shift="scale_shift",
        )
    else:
        plain = len(widths) - attention
        unet = UNet2DModel(
            **shape,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * attention,
            up_block_types=("AttnUpBlock2D",) * attention + ("UpBlock2D",) * plain,
            add_attention=attention > 0,
            attn_norm_num_groups=shape["norm_num_groups"],
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )
    width = CONDITION if conditioning == "cbn" else 4 * widths[0]
    projector = RepresentationProjector(features_dim, width, hidden, tokens=tokens)
    return RCDMPipeline(unet, projector, scheduler_of(prediction), prediction, conditioning)


@contextmanager
def _at_rest(*modules: torch.nn.Module) -> Iterator[None]:
    """While entered, the modules are in evaluation mode: what is normalised over a batch in training is not while drawing."""
    training = [module for module in modules if module.training]
    try:
        for module in training:
            module.eval()
        yield
    finally:
        for module in training:
            module.train()


def _check_annealing(strength: float, tau1: float, tau2: float, psi: float) -> None:
    if not 0 <= strength < math.inf:
        raise ValueError(f"annealing is the standard deviation of noise, 0 or more, but got {strength}")
    if not 0 <= tau1 <= tau2 <= 1:
        raise ValueError(f"the noise of annealing fades between tau2 and tau1, 0 <= tau1 <= tau2 <= 1, but got {tau1}, {tau2}")
    if not 0 <= psi <= 1:
        raise ValueError(f"psi is how far annealing restores mean and deviation, from 0 to 1, but got {psi}")


def scheduler_of(prediction: str) -> Any:
    """Returns a scheduler that is told its noise in full: what one leaves to its defaults, another replaces by its own."""
    if prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    if prediction == "edm":
        return EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=SIGMA_DATA, prediction_type="epsilon")
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type=SAYS[prediction],
        timestep_spacing="trailing",
    )


def _check_parts(unet: ModelMixin, projector: RepresentationProjector, conditioning: str) -> None:
    one_of("conditioning", conditioning, CONDITIONINGS)
    tells, width, what = _told(unet)
    if tells != conditioning:
        said = f" of class_embed_type {unet.config.class_embed_type!r}" if tells is None else ""
        raise ValueError(
            f"of conditioning {conditioning!r} the UNet is a {UNETS[conditioning]}, but got a {type(unet).__name__}{said}; "
            f"wb.build_denoiser makes one"
        )
    if projector.config.width != width:
        raise ValueError(f"the projector's width must be that of the UNet's {what}, {width}, but is {projector.config.width}")
    if (projector.config.tokens is None) == (conditioning == "xattn"):
        raise ValueError("a projector says how many tokens it takes, tokens=T, where the UNet attends to them, and only there")
    halved = len(unet.config.block_out_channels) - 1
    for size in _size(unet):
        if size % 2**halved:
            most = next(k for k in range(halved, -1, -1) if size % 2**k == 0) + 1
            raise ValueError(
                f"images of {size} pixels cannot be halved {halved} times, as {halved + 1} levels do: give at most {most} "
                f"widths, or images of a multiple of {2**halved} pixels"
            )


def _told(unet: ModelMixin) -> tuple[str | None, int, str]:
    """Returns the conditioning that a UNet is for, if any, how wide the condition is, and what that is called."""
    if isinstance(unet, BatchNormUNet):
        return "cbn", unet.config.condition, "condition"
    if isinstance(unet, UNet2DConditionModel):
        return "xattn", unet.config.cross_attention_dim, "attention to tokens"
    added = unet.config.get("class_embed_type", "identity") == "identity"
    return "adagn" if added else None, unet.time_embedding.linear_2.out_features, "embedding of time"


def _size(unet: ModelMixin) -> tuple[int, int]:
    size = unet.config.sample_size
    return (size, size) if isinstance(size, int) else tuple(size)


def _shown(x: Float[Tensor, "n c h w"], output_type: str) -> Tensor | np.ndarray | list:
    images = (x.float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return images
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()
    return arrays if output_type == "np" else DiffusionPipeline.numpy_to_pil(arrays)
