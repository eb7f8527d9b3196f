"""Any architecture of timm as a backbone: from random weights, from its published ones, or from a checkpoint on disk.

References:
    PyTorch image models (Wightman, 2019), https://github.com/huggingface/pytorch-image-models
"""

import difflib
import functools
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from workbench.models.checkpoints import State, load_weights
from workbench.models.encoder import main_layers
from workbench.spec import fetches_weights

__all__ = ["Timm"]


class Timm(nn.Module):
    """Images (B, C, H, W) to pooled representations (B, D), by the network ``model`` without its classifier.

    Arguments:
        name: An architecture (``"resnet50"``), or one with the tag of its published weights (``"resnet50.a1_in1k"``).
        pretrained: Whether the published weights are downloaded (once; timm caches them).
        checkpoint: A file with weights instead, see :func:`workbench.models.load_weights`; ``report`` then says what was used.
        prefix, match, partial: Passed to ``load_weights``: what stands before the names in the file, whether tensors are matched
            by name or by order, whether some may be missing.
        image_size: Pixels that a network with a fixed grid (a vision transformer) is built for; its position embeddings are
            interpolated. By default the size that it was published with.
        resize: Whether images of another size are resized to ``size`` (bilinear, antialiased) before they enter.
        channels: Of the images. The first convolution of published weights is summed for 1 channel, repeated for others.

    ``out`` is D, ``size`` the native image size in pixels, ``mean`` and ``std`` the pixel statistics that the weights expect
    (their means over the channels where ``channels`` is not 3), ``stages`` the module paths of the network's stages or blocks.

    Raises:
        ValueError: If timm knows no such name or tag, or the checkpoint does not fit.
        RuntimeError: If the weights could not be downloaded.

    Example:
        >>> import torch
        >>> Timm("test_vit", image_size=64)(torch.ones(2, 3, 64, 64)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        checkpoint: str | Path | None = None,
        prefix: str | None = None,
        match: Literal["name", "order"] = "name",
        partial: bool = False,
        image_size: int | None = None,
        resize: bool = False,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if pretrained and checkpoint:
            raise ValueError(f"{name} can have its published weights or those of {checkpoint}, not both; drop pretrained=True")
        self.name, self.pretrained, self.checkpoint = name, pretrained, checkpoint
        self.prefix, self.match, self.partial = prefix, match, partial
        self.image_size, self.resize, self.channels = image_size, resize, channels
        self.model = _create(name, pretrained=pretrained and fetches_weights(), image_size=image_size, channels=channels)
        settings = self.model.pretrained_cfg
        self.size = image_size or settings["input_size"][-1]
        self.mean, self.std = _fit(settings["mean"], channels), _fit(settings["std"], channels)
        self.out = self.model.head_hidden_size
        self.stages = [f"model.{stage}" for stage in main_layers(self.model)]
        self.report = None
        if checkpoint and fetches_weights():
            settings = {"prefix": prefix, "match": match, "partial": partial}
            self.report = load_weights(self.model, checkpoint, convert=functools.partial(_fitted, self.model), **settings)

    def forward(self, x: Tensor) -> Tensor:
        if self.resize and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.model(x)


def _fit(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (sum(values) / len(values),)


def _create(name: str, *, pretrained: bool, image_size: int | None, channels: int) -> nn.Module:
    import timm

    _known(name)
    wanted = {"pretrained": pretrained, "num_classes": 0, "in_chans": channels}
    sized = {} if image_size is None else {"img_size": image_size}
    *tries, last = [{"dynamic_img_size": True} | sized, sized, {}] if sized else [{"dynamic_img_size": True}, {}]
    try:
        for extra in tries:
            try:
                return timm.create_model(name, **wanted, **extra)
            except TypeError:  # an architecture without a grid takes no image size
                continue
        return timm.create_model(name, **wanted, **last)
    except Exception as error:
        if not pretrained:
            raise ValueError(
                f"timm could not build {name!r} with channels={channels}, image_size={image_size}: {error}"
            ) from error
        raise RuntimeError(
            f"the published weights of {name!r} could not be had: {str(error).rstrip('.')}. Without internet, copy the file "
            "to this machine and say checkpoint='weights.safetensors' in place of pretrained=True."
        ) from error


def _known(name: str) -> None:
    """Raises with close matches where timm knows no such architecture or tag."""
    import timm

    if name.startswith(("hf_hub:", "hf-hub:", "local-dir:")):
        raise ValueError(f"{name!r}: give the architecture's name, and the weights as checkpoint='model.safetensors'")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.4)
        raise ValueError(
            f"timm has no architecture {architecture!r}; near it are {', '.join(close) or 'none'}; search with backbones('*vit*')"
        )
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(f"timm has no weights {tag!r} of {architecture}; it has {', '.join(tags) or 'none'}")


def _fitted(model: nn.Module, state: State) -> State:
    """Fits a checkpoint's tensors to the model: timm's own conversion (positions, older names), then the first convolution."""
    from timm.models import adapt_input_conv

    home: ModuleType = sys.modules[type(model).__module__]
    convert: Any = getattr(home, "checkpoint_filter_fn", None)
    if convert:
        state = dict(convert(state, model) if len(inspect.signature(convert).parameters) > 1 else convert(state))
    own, first = model.state_dict(), model.pretrained_cfg.get("first_conv") or ()
    for key in [f"{conv}.weight" for conv in ([first] if isinstance(first, str) else first)]:
        if key in state and key in own and state[key].ndim == 4 and state[key].shape[1] == 3 != own[key].shape[1]:
            state[key] = adapt_input_conv(own[key].shape[1], state[key])
    return state
