r"""What a denoiser is told of a representation: a vector, by default as wide as its embedding of time, to which it is added.

.. math:: c = W \, \frac{h - \mu}{\sigma} + b

with :math:`\mu, \sigma` the mean and standard deviation of each dimension over the representations that were trained on, and in
place of c a learned vector where no representation is given. Of a dimension that never varied there is no scale: it is only
centred, so that a new value that differs by little stays little.

In every residual block the sum of c and the embedding of time becomes scale and shift after a GroupNorm ("AdaGN"), as classes
do in the guided diffusion models. Tokens, such as those of patches, become one such vector each, to which a learned one of
their place is added, and the UNet attends to them ("xattn"). Those of places start as large as what is added to: from small
ones attention hardly learned in minutes where a token comes from.

References:
    High Fidelity Visualization of What Your Self-Supervised Representation Knows About (Bordes, Balestriero and Vincent, 2022),
    https://arxiv.org/abs/2112.09164. Its text describes conditional batch normalisation (``"cbn"``); the released code and
    weights add a linear map of h to the embedding of time (``"adagn"``). They neither standardise h nor leave it out.
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), section 3, https://arxiv.org/abs/2105.05233
    Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), https://arxiv.org/abs/2207.12598
"""

from typing import Any

import torch
import torch.nn as nn
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.generate.representations import Representation, varies

__all__ = ["RepresentationProjector"]

CHUNK = 4096  # rows that are summed at a time


class RepresentationProjector(ModelMixin, ConfigMixin):
    """Representations (B, D), standardised, to conditions (B, ``width``); a learned one, ``null``, stands for none.

    Of tokens, (B, T, D) become (B, T, ``width``), and ``null`` stands in the place of each.

    Until :meth:`standardise` has seen representations, mean is 0 and std is 1.

    Arguments:
        features_dim: D.
        width: Of what the denoiser is told.
        hidden: Of a layer between, with SiLU; None for a linear map.
        source: Of the representations, see :class:`Representation`; :meth:`standardise` sets it, and :meth:`take` refuses others.
        tokens: T, or None for vectors.

    Raises:
        ValueError: If a width is no whole number of at least 1; in ``forward``, if the representations have other dimensions.

    Example:
        >>> h = torch.randn(100, 8)
        >>> projector = RepresentationProjector(8, 16).standardise(h)
        >>> projector(h).shape, projector.standardised(h).std(0, correction=0).round(decimals=3).unique()
        (torch.Size([100, 16]), tensor([1.]))
    """

    @register_to_config
    def __init__(
        self,
        features_dim: int,
        width: int,
        hidden: int | None = None,
        source: dict[str, Any] | None = None,
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        given = {"features_dim": features_dim, "width": width, "hidden": hidden, "tokens": tokens}
        for name, value in given.items():
            if value is None and name in ("hidden", "tokens"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"a projector's {name} is a whole number of at least 1, but got {value!r}")
        self.register_buffer("mean", torch.zeros(features_dim))
        self.register_buffer("std", torch.ones(features_dim))
        inner = [] if hidden is None else [nn.Linear(features_dim, hidden), nn.SiLU()]
        self.map = nn.Sequential(*inner, nn.Linear(hidden or features_dim, width))
        self.null = nn.Parameter(torch.zeros(width))
        self.places = None if tokens is None else nn.Parameter(torch.randn(tokens, width))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one representation: (D,), or (T, D)."""
        tokens = self.config.tokens
        return (self.config.features_dim,) if tokens is None else (tokens, self.config.features_dim)

    def forward(self, h: Float[Tensor, "b *d"], dropped: Bool[Tensor, " b"] | None = None) -> Float[Tensor, "b *w"]:
        """Returns the condition of every row, and ``null`` for those that are ``dropped``."""
        told = self.tell(self.standardised(h))
        return told if dropped is None else torch.where(dropped.view(-1, *[1] * (told.ndim - 1)), self.null, told)

    def standardised(self, h: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """Returns ``(h - mean) / std``; where std is at most 1e-5 of the mean, or both are 0, ``h - mean``."""
        self._check_shape(h)
        return (h.to(self.mean) - self.mean) / torch.where(varies(self.mean, self.std), self.std, 1)

    def tell(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *w"]:
        """Returns the conditions of representations that are standardised already."""
        return self.map(z) if self.places is None else self.map(z) + self.places

    def nothing(self, n: int) -> Float[Tensor, "n *w"]:
        """Returns the conditions of ``n`` images of no representation."""
        return self.null.expand(n, *self.shape[:-1], -1)

    @torch.no_grad()
    def standardise(self, h: Float[Tensor, "n *d"] | Representation) -> "RepresentationProjector":
        """Keeps the mean and the standard deviation (of N, not N - 1) of these rows, and their source; returns itself.

        Of tokens they are over all tokens of all images.

        Raises:
            ValueError: If the rows have other dimensions, are none, or are not finite.
        """
        values = h.values if isinstance(h, Representation) else h
        self._check_shape(values)
        if not len(values):
            raise ValueError("a mean is taken of at least 1 representation, but got none")
        rows = values.flatten(0, -2)
        mean = sum(part.double().sum(0) for part in rows.split(CHUNK)) / len(rows)
        variance = sum((part.double() - mean).square().sum(0) for part in rows.split(CHUNK)) / len(rows)
        if not torch.isfinite(variance).all():
            wrong = int((~torch.isfinite(variance)).sum())
            raise ValueError(f"representations must be finite, but {wrong} of {rows.shape[1]} dimensions are not in some row")
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt())
        if isinstance(h, Representation):
            self.register_to_config(source=dict(h.source))
        return self

    def take(self, h: Float[Tensor, "b *d"] | Representation) -> Float[Tensor, "b *d"]:
        """Returns the rows, where they have the right width and nothing in their record says that they come from elsewhere.

        Of a plain tensor the source is not known, and not asked for.

        Raises:
            TypeError: If they are neither a tensor nor a :class:`Representation`.
            ValueError: If they have other dimensions, or come from another model or layer, or were taken otherwise.
        """
        if not isinstance(h, Tensor | Representation):
            raise TypeError(
                f"a representation is a tensor (B, D) or wb.Representation(values, source), but got {type(h).__name__}"
            )
        if isinstance(h, Tensor):
            self._check_shape(h)
            return h
        known = self.config.source or {}
        differ = {k: (h.source[k], known[k]) for k in sorted(known.keys() & h.source.keys()) if h.source[k] != known[k]}
        if differ:
            listed = "; ".join(f"{k} {got!r} instead of {wanted!r}" for k, (got, wanted) in differ.items())
            asked = repr(known["layer"]) if "layer" in known else "layer"
            asked += f", tokens={known['tokens']!r}" if known.get("tokens", "mean") != "mean" else ""
            raise ValueError(
                f"these representations are not those that the denoiser was made for: {listed}. "
                f"Take them by wb.represent(model, images, {asked}) of that very model."
            )
        self._check_shape(h.values)
        return h.values

    def _check_shape(self, h: Tensor) -> None:
        if tuple(h.shape[1:]) == self.shape and h.ndim == 1 + len(self.shape):
            return
        source = self.config.source or {}
        layer = source.get("layer")
        advice = f"take those of the layer {layer!r}" if layer else "take those of the layer that it was made for"
        if h.ndim == 3 and len(self.shape) == 1:
            advice = "take one vector an image, tokens='mean', or a denoiser of conditioning='xattn'"
        if h.ndim == 2 and len(self.shape) == 2:
            advice = "take them by wb.represent(model, images, layer, tokens='all'), or a denoiser of conditioning='adagn'"
        wanted = ", ".join(["B", *map(str, self.shape)])
        what = "representations" if len(self.shape) == 1 else "tokens"
        raise ValueError(f"the denoiser is conditioned on {what} ({wanted}), but got {tuple(h.shape)}; {advice}")
