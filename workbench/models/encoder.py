"""An encoder: a backbone that gives the representation ``h``, a projector that gives the embedding ``z``; and its layers."""

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd
import torch
import torch.nn as nn
from torch import Tensor

from workbench.core import Embedding
from workbench.pooling import channels_first, enclosing

__all__ = ["Encoder", "Projector", "layer_widths", "layers", "main_layers", "sublayers"]

PARTS = ("norm1", "attn", "norm2", "mlp")  # of a transformer block, as timm and we name them, in the order they run


class Projector(nn.Sequential):
    """Linear-BatchNorm-ReLU blocks, the last linear alone; ``projector.0``, ``projector.1`` ... name its layers.

    Arguments:
        widths: Of the input, of every hidden layer and of the output: ``[512, 2048, 2048, 128]``. Fewer than two widths give
            the identity: the embedding is the representation (no projector).
        norm_last: Whether the output is normalised too, as SimCLR v1 and SimSiam do.

    Example:
        >>> Projector([8, 16, 4])(torch.ones(2, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, widths: Sequence[int], *, norm_last: bool = False) -> None:
        if isinstance(widths, str) or any(isinstance(w, bool) or w != int(w) or w < 1 for w in widths):
            raise ValueError(
                f"a projector's widths are whole numbers of at least 1, such as [512, 2048, 128], but got {widths!r}"
            )
        *hidden, last = pairwise(widths) if len(widths) > 1 else [None]
        blocks = [nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()) for a, b in hidden]
        if last:
            end = nn.Linear(*last, bias=False)
            blocks.append(nn.Sequential(end, nn.BatchNorm1d(last[1])) if norm_last else end)
        super().__init__(*blocks)
        self.widths, self.norm_last = list(widths), norm_last


class Encoder(nn.Module):
    """A backbone and a projector, with the normalisation of the pixels in front.

    Arguments:
        backbone: Images (B, C, H, W) to representations (B, D).
        projector: Representations to embeddings (B, K).
        mean, std: Of the pixels in [0, 1], a value a channel or one for all; the input is ``(x - mean) / std``. A grey image
            (C = 1) is repeated where there are three values, or the backbone says that it takes three ``channels``.
        frozen: Whether the backbone stays as it is, in evaluation mode and without gradients, while the projector learns.

    The convolutions run with the channels last in memory, which is faster on processors and GPUs alike.

    Raises:
        ValueError: If ``mean`` and ``std`` are not as many, or a std is not positive.
        TypeError: In ``forward``, if the images are not floating point, so not in [0, 1].
        ValueError: In ``forward``, if the images' channels do not fit ``mean``, or the backbone does not give (B, D).
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"an encoder needs as many means as stds, and these above 0, but got mean={mean}, std={std}")
        self.backbone, self.projector = backbone, projector
        self.mean, self.std, self.frozen = tuple(mean), tuple(std), frozen
        scale = 1 / torch.tensor(self.std).view(-1, 1, 1)
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer("_shift", -torch.tensor(self.mean).view(-1, 1, 1) * scale, persistent=False)
        if frozen:
            backbone.requires_grad_(requires_grad=False).eval()

    def forward(self, x: Tensor) -> Embedding:
        h = self.backbone(self.normalise(x))
        if h.ndim != 2:
            raise ValueError(
                f"a backbone gives representations (B, D), but this one gives {tuple(h.shape)}; pool them in its forward"
            )
        return Embedding(h, self.projector(h))

    def normalise(self, x: Tensor) -> Tensor:
        """Returns ``(x - mean) / std`` of images (B, C, H, W) in [0, 1], with the channels last in memory."""
        if not x.is_floating_point():
            raise TypeError(f"an encoder takes images in [0, 1], but got {x.dtype}; write images.float() / 255")
        channels = len(self._scale) if len(self._scale) > 1 else getattr(self.backbone, "channels", None)
        if x.ndim != 4 or (channels is not None and x.shape[1] not in (1, channels)):
            many = "an encoder" if channels is None else f"an encoder of {channels} channel{'s' * (channels > 1)}"
            raise ValueError(f"{many} takes images (B, C, H, W), but got {tuple(x.shape)}")
        if channels is not None and x.shape[1] != channels:
            x = x.expand(-1, channels, -1, -1)
        return torch.addcmul(self._shift, x, self._scale).contiguous(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Encoder":  # noqa: FBT001, FBT002
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


def layers(model: nn.Module) -> list[str]:
    """Returns the names of every layer that features can be taken from: module paths, in the order of definition.

    Example:
        >>> layers(Encoder(nn.Flatten(), Projector([4, 8, 2])))[:3]
        ['backbone', 'projector', 'projector.0']
    """
    return [name for name, _ in model.named_modules() if name]


def main_layers(model: nn.Module) -> list[str]:
    """Returns the layers worth probing first, from pixels to embedding: stages, ``backbone``, projector blocks, ``projector``.

    Stages are those that the backbone names (``stages``, as :class:`workbench.models.Timm` does: every block of a vision
    transformer), or else its direct children with parameters. A projector that is the identity has none.

    Arguments:
        model: An :class:`Encoder`, or any module (a backbone alone, a model of timm), whose stages are then listed.

    Example:
        >>> from workbench.models.convnet import ConvNet
        >>> main_layers(Encoder(ConvNet(depth=2), Projector([32, 64, 8])))
        ['backbone.stage1', 'backbone.stage2', 'backbone', 'projector.0', 'projector']
    """
    if not isinstance(model, Encoder):
        return _stages(model)
    inside = [f"backbone.{stage}" for stage in _stages(model.backbone)]
    blocks = [f"projector.{name}" for name, _ in model.projector.named_children()]
    identity = isinstance(model.projector, nn.Identity) or (isinstance(model.projector, nn.Sequential) and not blocks)
    return [*inside, "backbone", *([] if identity else [*blocks[:-1], "projector"])]


def sublayers(model: nn.Module) -> list[str]:
    """Returns what every transformer block is made of, from pixels on: its norms, attention and MLP, then the block itself.

    The attention and the MLP are what is added to the tokens, the block is the sum. An encoder's ``backbone`` stands last.

    Raises:
        ValueError: If there are no such blocks.

    Example:
        >>> from workbench.models.tokens import TokenViT
        >>> sublayers(TokenViT(8, 4, 16, 1, 2))
        ['blocks.0.norm1', 'blocks.0.attn', 'blocks.0.norm2', 'blocks.0.mlp', 'blocks.0']
    """
    found = []
    for name, module in model.named_modules():
        parts = [part for part in PARTS if isinstance(getattr(module, part, None), nn.Module)]
        if name and {"attn", "mlp"} <= set(parts):
            found += [*(f"{name}.{part}" for part in parts), name]
    if not found:
        kind = type(getattr(model, "backbone", model)).__name__
        raise ValueError(f"{kind} has no transformer blocks (with attn and mlp); main_layers(model) gives its stages")
    return [*found, "backbone"] if isinstance(model, Encoder) else found


def _stages(backbone: nn.Module) -> list[str]:
    if hasattr(backbone, "stages") and not isinstance(backbone.stages, nn.Module):
        return list(backbone.stages)
    known = getattr(backbone, "feature_info", None)  # timm's list of where features are taken
    if known:
        return [entry["module"] for entry in (known if isinstance(known, list) else known.get_dicts())]
    return [name for name, child in backbone.named_children() if any(True for _ in child.parameters())]


def layer_widths(
    model: nn.Module, *, image_size: int | None = None, channels: int | None = None, only: Sequence[str] | None = None
) -> pd.DataFrame:
    """Returns what every layer gives for one image: columns ``layer, kind, shape, width, parameters``.

    ``shape`` is that of the output without the batch, ``width`` the number of features that are left when space or tokens are
    averaged: the channels of a map (C, H, W) or (H, W, C), the last axis of tokens (T, D).

    Arguments:
        model: Run once in evaluation mode, on a black image; it is left in the mode that it was in.
        image_size: In pixels; by default the ``size`` of the backbone where it has one, else 32.
        channels: Of the image; by default those of the backbone, or 3.
        only: The layers; by default :func:`main_layers`.

    Raises:
        KeyError: If the model has no such layer.
        ValueError: If it cannot be told where the channels of a layer's map stand.
    """
    backbone, modules = getattr(model, "backbone", model), dict(model.named_modules())
    size, channels = image_size or getattr(backbone, "size", 32), channels or getattr(backbone, "channels", 3)
    wanted = list(main_layers(model) if only is None else only)
    unknown = [name for name in wanted if name not in modules]
    if unknown:
        raise KeyError(f"the model has no layer {unknown[0]!r}; main_layers(model) gives {main_layers(model)}, layers(model) all")
    found: dict[str, tuple[tuple[int, ...], int]] = {}
    hooks = [modules[name].register_forward_hook(_shape_into(found, name, enclosing(modules, name), size)) for name in wanted]
    parameter, training = next(model.parameters(), torch.zeros(0)), model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, size, size, device=parameter.device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    rows = []
    for name in (n for n in wanted if n in found):
        (shape, width), module = found[name], modules[name]
        count = sum(p.numel() for p in module.parameters())
        rows.append({"layer": name, "kind": type(module).__name__, "shape": shape, "width": width, "parameters": count})
    return pd.DataFrame(rows, columns=["layer", "kind", "shape", "width", "parameters"])


def _shape_into(found: dict[str, tuple[tuple[int, ...], int]], name: str, around: list[nn.Module], size: int) -> object:
    def hook(module: nn.Module, inputs: tuple, output: object) -> None:
        tensor = output[0] if isinstance(output, tuple) and output else output
        if isinstance(tensor, Tensor):
            axis = 1 if channels_first(tensor, around, (size, size)) else -1
            found[name] = tuple(tensor.shape[1:]), tensor.shape[axis]

    return hook
