"""From what a layer gives, maps and tokens, to one vector an image (or all of them): where channels stand, which tokens count.

Convolutions give maps (B, C, H, W); Swin, VOLO and others keep the channels last, (B, H, W, C). Averaging over the wrong axes
leaves a matrix of the wrong width that looks like features. The kind of a module tells the layout, or the shape of its map
beside the image's, or what timm says of its own models, or the layers inside; where nothing tells it, that is an error.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn as nn
from torch import Tensor

__all__: list[str] = []

TOKENS = ("mean", "patches", "first")

CHANNELS_FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm2d, nn.GroupNorm),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)


class Listening:
    """While entered, the model is in evaluation mode; a call runs it and returns what the named layers gave, pooled.

    A call raises ValueError where a layer did not run, or gave what cannot be pooled to a row an image.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], tokens: str) -> None:
        self.model, self.names, self.tokens = model, names, tokens
        self.modules = dict(model.named_modules())
        self.modes = {module: module.training for module in self.modules.values()}
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.held: dict[str, Tensor] = {}
        self.shape: torch.Size = torch.Size()

    def __enter__(self) -> "Listening":
        self.hooks = [self.modules[name].register_forward_hook(self._keeper(name)) for name in self.names]
        self.model.eval()
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
        for module, mode in self.modes.items():
            module.training = mode

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Returns the layers' matrices (B, D), float32 on the CPU, of images (B, C, H, W)."""
        self.held, self.shape = {}, image.shape
        self.model(image.to(self.dtype))
        silent = [name for name in self.names if name not in self.held]
        if silent:
            raise ValueError(f"the model has the layer {', '.join(map(repr, silent))}, but did not run it; take others")
        return self.held

    def _keeper(self, name: str) -> Callable:
        around = enclosing(self.modules, name)

        def keep(_module: nn.Module, _input: tuple, output: object) -> None:
            output = output[0] if isinstance(output, tuple | list) and output else output
            if not isinstance(output, Tensor) or output.ndim < 2:
                raise ValueError(
                    f"layer {name!r} gives {type(output).__name__}, not a tensor with a row an image; take a layer inside it"
                )
            if len(output) != self.shape[0]:
                raise ValueError(
                    f"layer {name!r} gives {len(output)} rows for {self.shape[0]} images (parts of them, perhaps); "
                    "take the layer around it"
                )
            try:
                pooled = pool(output.float(), around, image=tuple(self.shape[-2:]), tokens=self.tokens)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from error
            self.held[name] = pooled.cpu().clone()

        return keep


def enclosing(modules: Mapping[str, nn.Module], name: str) -> list[nn.Module]:
    """Returns the module of that name, the one that holds it, and so on up to the model, of ``model.named_modules()``."""
    parts = name.split(".")
    return [modules[".".join(parts[:depth])] for depth in range(len(parts), -1, -1)]


def pool(output: Tensor, around: Sequence[nn.Module], *, image: tuple[int, int], tokens: str = "mean") -> Tensor:
    """Returns what a layer gives as a matrix (B, D): maps averaged over space, tokens as :func:`pool_tokens` does.

    Arguments:
        output: (B, D), (B, C, H, W), (B, H, W, C), (B, T, D), or more axes of which the last is averaged over no more.
        around: The layer, the module that holds it, the one that holds that, up to the model.
        image: Height and width, in pixels, of what the model was shown.
        tokens: One of ``TOKENS``; or ``"all"`` for what is not pooled: (B, T, D), the places of a map row by row.

    Raises:
        ValueError: If the layout cannot be told, or there are no such tokens.
    """
    if output.ndim == 2:
        if tokens == "all":
            raise ValueError("it gives one vector an image, no tokens; take tokens='mean', or an earlier layer")
        return output
    first = channels_first(output, around, image)
    if tokens == "all":
        return output.flatten(2).transpose(1, 2) if first else output.flatten(1, -2)
    if first:
        return output.flatten(2).mean(2)
    return pool_tokens(output, around, tokens) if output.ndim == 3 else output.flatten(1, -2).mean(1)


def channels_first(output: Tensor, around: Sequence[nn.Module], image: tuple[int, int]) -> bool:
    """Returns whether axis 1 holds the channels, else the last one does; three axes are (B, tokens, D) unless a type says no.

    Raises:
        ValueError: If it cannot be told of a map.
    """
    layer = around[0]
    if isinstance(layer, CHANNELS_FIRST):
        return True
    if _channels_last(layer) or output.ndim != 4:
        return False
    first, last = _shaped(output.shape[2:4], image), _shaped(output.shape[1:3], image)
    if first != last:
        return first
    said = next((m.output_fmt for m in around if getattr(m, "output_fmt", None) in ("NCHW", "NHWC")), None)
    if said is None:
        said = _said_by_what_it_holds(around) or _said_by_timm(around)
    if said is None:
        raise ValueError(
            f"it cannot be told whether the channels of a map {tuple(output.shape)} stand first or last; take a convolution, "
            f"normalisation or linear layer inside it, or images of another size, for which the three axes differ"
        )
    return said == "NCHW"


def pool_tokens(output: Tensor, around: Sequence[nn.Module], tokens: str) -> Tensor:
    """Returns (B, D) of tokens (B, T, D).

    ``"mean"`` is over all tokens; ``"patches"`` over those behind the class and register tokens, as many as the attribute
    ``num_prefix_tokens`` of a module around says (timm's name for them); ``"first"`` is the class token.

    Raises:
        ValueError: If nothing says how many tokens are no patches; if there is no class token, or no patch.
    """
    if tokens == "mean":
        return output.mean(1)
    prefix, count = _prefix(around, output.shape[1]), output.shape[1]
    if tokens == "first":
        if prefix == 0:
            raise ValueError(f"no class token stands before its {count} patches; take tokens='mean', or a later layer")
        return output[:, 0]
    if prefix is None:
        raise ValueError(
            f"nothing says how many of its {count} tokens are class or register tokens; set model.num_prefix_tokens, "
            f"or take tokens='mean'"
        )
    if prefix >= count:
        raise ValueError(f"its {count} tokens are class or register tokens, none is a patch; take tokens='first'")
    return output[:, prefix:].mean(1)


def _shaped(map_: Sequence[int], image: tuple[int, int]) -> bool:
    (a, b), (h, w) = map_, image
    return a == b or a * w == b * h  # a model may make images square


def _channels_last(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module) in (nn.LayerNorm, nn.RMSNorm)  # what derives from these may turn axes


def _said_by_what_it_holds(around: Sequence[nn.Module]) -> str | None:
    """An activation or a stage has the layout of the layers in it, or else beside it, where these agree."""
    for module in around:
        first, last = (any(map(kind, module.modules())) for kind in (lambda m: isinstance(m, CHANNELS_FIRST), _channels_last))
        if first or last:
            return None if first and last else "NCHW" if first else "NHWC"
    return None


def _said_by_timm(around: Sequence[nn.Module]) -> str | None:
    """The stages that a model of timm lists have the channels first, unless its ``output_fmt`` says otherwise."""
    for module in around[1:]:
        listed = getattr(module, "feature_info", None) or []
        listed, parts = listed if isinstance(listed, list) else listed.get_dicts(), dict(module.named_modules())
        if any(parts.get(entry["module"]) is around[0] for entry in listed):
            return "NCHW"
    return None


def _prefix(around: Sequence[nn.Module], count: int) -> int | None:
    for module in around:
        prefix = getattr(module, "num_prefix_tokens", None)
        if isinstance(prefix, int):
            grid = getattr(getattr(module, "patch_embed", None), "num_patches", None)
            return 0 if count == grid else prefix  # where the class token joins late, the first blocks have patches alone
    return None
