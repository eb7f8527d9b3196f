"""images + factors -> views -> encoder -> objective -> trainer -> run || features -> measures -> tables -> figures -> panels.

Every public name of the library can be had from here, and is imported when it is first asked for:
``import workbench as wb; wb.garments(); wb.SimCLR(); wb.rankme(z)``.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    from workbench.spec import find

    return find("workbench", name)


def __dir__() -> list[str]:
    from workbench.spec import names

    return sorted(names("workbench"))
