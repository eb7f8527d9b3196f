"""Where data sets lie on this machine: ``$WORKBENCH_DATA``, else ``workbench`` in the user's cache folder."""

import os
from pathlib import Path

__all__ = ["data_home"]


def data_home() -> Path:
    """Returns the folder in which data sets are looked for, downloaded and cached; it need not exist yet.

    It is ``$WORKBENCH_DATA`` where that is set, else ``$XDG_CACHE_HOME/workbench``, else ``~/.cache/workbench``.
    """
    if chosen := os.environ.get("WORKBENCH_DATA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "workbench"
