"""Tables that came with the workbench: what its papers gave at ``scale="cpu"`` with three seeds.

``workbench/tables/README.md`` has the command that made each.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["kept_table"]

TABLES = Path(__file__).parent / "tables"


def kept_table(paper: str, table: str = "measures") -> "pd.DataFrame":
    """Returns a table of a paper as it was when the workbench was published, so that nothing need be trained to look at it.

    Arguments:
        paper: Its name, as of the notebook: ``"guillotine"``.
        table: The file's name without its ending.

    Raises:
        FileNotFoundError: If there is no such table; the message names those there are.
    """
    import pandas as pd

    path = TABLES / paper / f"{table}.csv"
    if not path.is_file() or path.parent.parent != TABLES:
        there = sorted(f"{p.parent.name}/{p.stem}" for p in TABLES.glob("*/*.csv"))
        said = f"there are {', '.join(there)}" if there else "there are none"
        raise FileNotFoundError(f"no table {paper}/{table} came with the workbench; {said}")
    return pd.read_csv(path)
