"""Backbones and encoders by name, with widths and normalisation wired; for menus, the command line and short notebooks."""

import fnmatch
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn as nn

from workbench.models.autoencoder import Autoencoder
from workbench.models.convnet import ConvNet
from workbench.models.encoder import Encoder, Projector
from workbench.models.locatello import Locatello, LocatelloDecoder
from workbench.models.pretrained import Timm
from workbench.models.resnet import ResNet18
from workbench.models.tokens import TokenViT

__all__ = ["backbone", "backbones", "build_autoencoder", "build_encoder"]

VITS = {  # width, depth, heads: the first trains on a laptop, the others are those of DeiT and timm
    "vit-tiny": (96, 4, 3),
    "vit-small": (384, 12, 6),
    "vit-base": (768, 12, 12),
}
LOCATELLO = {"locatello": {"width": 32, "hidden": 256}, "locatello-small": {"width": 16, "hidden": 128}}
OWN = ("convnet", "convnet-residual", "resnet18", *VITS, *LOCATELLO)


def backbones(pattern: str | None = None) -> list[str]:
    """Returns names that :func:`backbone` understands: the workbench's own, and with a pattern those of timm too.

    Example:
        >>> backbones()
        ['convnet', 'convnet-residual', 'resnet18', 'vit-tiny', 'vit-small', 'vit-base', 'locatello', 'locatello-small']
        >>> "timm:vit_small_patch16_224.dino" in backbones("*vit_small*")
        True
    """
    if pattern is None:
        return list(OWN)
    import timm

    pattern = pattern.removeprefix("timm:")
    theirs = sorted({*timm.list_models(pattern), *timm.list_pretrained(pattern)})
    return [n for n in OWN if fnmatch.fnmatch(n, pattern)] + [f"timm:{n}" for n in theirs]


def backbone(name: str, *, channels: int = 3, image_size: int | None = None, **settings: Any) -> nn.Module:
    """Returns a backbone by its name: images (B, C, H, W) to representations (B, ``out``).

    Arguments:
        name: ``"convnet"``, ``"convnet-residual"`` (its last block is residual, of the same width), ``"resnet18"``,
            ``"vit-tiny"`` (4 blocks of width 96, for a processor), ``"vit-small"``, ``"vit-base"`` (:class:`TokenViT`),
            ``"locatello"`` and, for a processor, ``"locatello-small"`` (:class:`Locatello`, of images of one size), or any of
            timm with ``timm:`` in front. A tag there means the published weights: ``"timm:resnet50"`` starts at random,
            ``"timm:resnet50.a1_in1k"`` is downloaded, unless ``checkpoint=`` names a file.
        channels: Of the images.
        image_size: In pixels. Gives ``resnet18`` its stem (CIFAR's up to 64 pixels, and where no size is given) and a vision
            transformer its grid (ours take patches of 4 pixels up to 48, of 8 up to 96, then of 16; 32 where no size is given);
            with ``resize=True`` a network of timm keeps the size that it was published with, and the images are brought to it
            (right for published weights and small images, and as slow as large ones).
        settings: Arguments of the class: ``width`` of ``ConvNet`` and ``ResNet18``, ``patch`` and ``pool`` of ``TokenViT``,
            ``checkpoint``, ``resize`` ... of ``Timm``.

    Raises:
        ValueError: If there is no such backbone; the message has names near it.
    """
    if name in ("convnet", "convnet-residual"):
        return ConvNet(channels=channels, residual_last=name == "convnet-residual", **settings)
    if name == "resnet18":
        stem = "cifar" if image_size is None or image_size <= 64 else "imagenet"
        return ResNet18(**{"stem": stem, "channels": channels} | settings)
    if name in VITS:
        width, depth, heads = VITS[name]
        size = settings.get("image_size") or image_size or 32
        shape = {"image_size": size, "patch": 4 if size <= 48 else 8 if size <= 96 else 16}
        return TokenViT(**shape | {"width": width, "depth": depth, "heads": heads, "channels": channels} | settings)
    if name in LOCATELLO:
        return Locatello(**{"size": image_size or 32, "channels": channels} | LOCATELLO[name] | settings)
    if not name.startswith("timm:"):
        raise ValueError(f"there is no backbone {name!r}; there are {', '.join(OWN)}, and timm's, as 'timm:{name}'")
    own_size = {} if settings.get("resize") else {"image_size": image_size}
    settings = {"pretrained": _pretrained(name, settings), "channels": channels} | own_size | settings
    return Timm(name.removeprefix("timm:"), **settings)


def _pretrained(name: str, settings: dict[str, Any]) -> bool:
    """Whether a backbone starts with its published weights: where it is said, or else where its name has their tag."""
    return settings.get("pretrained", name.startswith("timm:") and "." in name and not settings.get("checkpoint"))


def build_encoder(
    name: str = "convnet",
    projector: Sequence[int] | str | None = (128, 128),
    *,
    channels: int = 3,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    frozen: bool = False,
    **settings: Any,
) -> Encoder:
    """Returns an encoder whose projector fits its backbone and whose pixels are normalised as the weights expect.

    Arguments:
        name: Of the backbone, see :func:`backbone`.
        projector: Widths after the representation, as a list or as ``"2048-2048-128"``: hidden layers, then the embedding. None
            or an empty one leaves the projector out, so that the embedding is the representation.
        channels: Of the images. Grey images for pretrained weights (``channels=1``) are repeated to their three channels, so that
            they give exactly what their grey RGB copies would.
        image_size: In pixels.
        mean, std: Of the pixels in [0, 1]. By default those of the pretrained weights, and .5 and .25 for a network that
            starts at random.
        frozen: Whether the backbone keeps its weights and its normalisation statistics, and the projector alone learns.
        settings: Arguments of the backbone's class.

    Example:
        >>> build_encoder("convnet", "256-64").projector.widths
        [128, 256, 64]
    """
    learned = _pretrained(name, settings) or bool(settings.get("checkpoint"))
    body = backbone(name, channels=3 if learned and channels == 1 else channels, image_size=image_size, **settings)
    own_mean, own_std = (body.mean, body.std) if learned else ((0.5,), (0.25,))
    return Encoder(body, Projector([body.out, *_widths(projector)]), mean=mean or own_mean, std=std or own_std, frozen=frozen)


def build_autoencoder(
    name: str = "locatello-small",
    latents: int = 10,
    *,
    code: Literal["gaussian", "quantised"] = "gaussian",
    levels: int = 10,
    channels: int = 3,
    image_size: int | None = None,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    **settings: Any,
) -> Autoencoder:
    """Returns an autoencoder: any backbone, a code, and Locatello et al.'s decoder of the same images.

    Arguments:
        name: Of the backbone, see :func:`backbone`; the decoder is the mirror of ``"locatello"`` and ``"locatello-small"``,
            and that of ``"locatello"`` for other backbones.
        latents: Dimensions of the code.
        code: ``"gaussian"`` for variational autoencoders, or ``"quantised"``.
        levels: Values of each dimension of a quantised code.
        channels: Of the images.
        image_size: In pixels; 32 where none is given.
        mean, std: Of the pixels that the encoder sees.
        settings: Arguments of the backbone's class; ``width`` and ``hidden`` of :class:`Locatello` are the decoder's, too.

    Example:
        >>> build_autoencoder("locatello", image_size=64).decoder.hidden
        256
    """
    size = image_size or 32
    body = backbone(name, channels=channels, image_size=size, **settings)
    shape = {k: getattr(body, k) for k in ("width", "hidden")} if isinstance(body, Locatello) else LOCATELLO["locatello"]
    decoder = LocatelloDecoder(latents, size, channels=channels, **shape)
    return Autoencoder(body, decoder, latents, code=code, levels=levels, mean=mean, std=std)


def _widths(projector: Sequence[int] | str | None) -> list[int]:
    if projector is None or projector in ("", "none"):
        return []
    parts = projector.split("-") if isinstance(projector, str) else projector
    try:
        widths = [int(w) for w in parts]
    except ValueError:
        widths = [0]
    if min(widths, default=1) < 1:
        raise ValueError(f"a projector is widths such as '2048-2048-128' or [2048, 2048, 128], but got {projector!r}")
    return widths
