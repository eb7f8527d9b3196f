"""The augmentations of the papers: arguments of ``Augment`` and ``MultiCrop`` by name."""

__all__ = ["AUGMENTATIONS", "MULTICROPS"]

_BYOL = {  # table 6 of Grill et al. 2020; Barlow Twins uses the same
    "scale": (0.08, 1.0),
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "grey": 0.2,
    "blur": (1.0, 0.1),
    "solarise": (0.0, 0.2),
}

AUGMENTATIONS = {
    # Chen et al. 2020, appendix A (strength 1) and B.9 (CIFAR-10: strength 1/2, no blur)
    "simclr": {"scale": (0.08, 1.0), "jitter": (0.8, 0.8, 0.8, 0.2), "grey": 0.2, "blur": 0.5},
    "simclr-cifar": {"scale": (0.08, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1), "grey": 0.2},
    "byol": _BYOL,
    "barlow": _BYOL,
    # Bardes et al. 2022, appendix C.1
    "vicreg": {"scale": (0.08, 1.0), "jitter": (0.4, 0.4, 0.2, 0.1), "grey": 0.2, "blur": 0.5, "solarise": 0.1},
    "vicreg-cifar": {"scale": (0.2, 1.0), "jitter": (0.4, 0.4, 0.2, 0.1), "grey": 0.2, "solarise": 0.1},  # as solo-learn has it
    # Chen and He 2021, appendices A and D (CIFAR-10: no blur)
    "simsiam": {"scale": (0.2, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1), "grey": 0.2, "blur": 0.5},
    "simsiam-cifar": {"scale": (0.2, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1), "grey": 0.2},
}

MULTICROPS = {
    # Caron et al. 2020, as their code has it
    "swav": {"large": 2, "small": 6, "jitter": (0.8, 0.8, 0.8, 0.2), "grey": 0.2, "blur": 0.5},
    # Caron et al. 2021, as their code has it
    "dino": {
        "large": 2,
        "small": 8,
        "scale": (0.4, 1.0),
        "small_scale": (0.05, 0.4),
        "blur": (1.0, 0.1, *[0.5] * 8),
        "solarise": (0.0, 0.2, *[0.0] * 8),
    },
}
