"""Viewers: state as parameters, derivations that call the rest, a layout; the same object in a notebook and in an app."""


def __getattr__(name: str) -> object:
    from workbench.spec import find

    return find(__name__, name)


def __dir__() -> list[str]:
    from workbench.spec import names

    return sorted(names(__name__))
