"""Pictures of tables and arrays, as HoloViews objects; no torch, runs or measures in here."""


def __getattr__(name: str) -> object:
    from workbench.spec import find

    return find(__name__, name)


def __dir__() -> list[str]:
    from workbench.spec import names

    return sorted(names(__name__))
