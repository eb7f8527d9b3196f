"""Images with their factors of variation: one file a family of data sets, a function each."""


def __getattr__(name: str) -> object:
    from workbench.spec import find

    return find(__name__, name)


def __dir__() -> list[str]:
    from workbench.spec import names

    return sorted(names(__name__))
