"""Images from representations: samples that share one, so that what stays is what it knows."""


def __getattr__(name: str) -> object:
    from workbench.spec import find

    return find(__name__, name)


def __dir__() -> list[str]:
    from workbench.spec import names

    return sorted(names(__name__))
