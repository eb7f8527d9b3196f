"""From pixels to augmented views, a whole batch at a time, on the device of the pixels."""


def __getattr__(name: str) -> object:
    from workbench.spec import find

    return find(__name__, name)


def __dir__() -> list[str]:
    from workbench.spec import names

    return sorted(names(__name__))
