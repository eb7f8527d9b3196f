"""Weights from other people's files, whatever they were wrapped in.

Training code saves a network inside others (``module.``, ``backbone.``, ``teacher.``) and state dicts inside dictionaries
(``{"state_dict": ...}``, ``{"student": ..., "teacher": ...}``). Both are prefixes of the names once nested dictionaries are
flattened, so there is one rule: the prefix under which most names of the model are found is stripped. Files are read as data;
nothing in them is executed.
"""

import logging
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
from torch import Tensor

__all__ = ["load_weights", "read_checkpoint"]

State = dict[str, Tensor]


def read_checkpoint(path: str | Path) -> State:
    """Returns every tensor of a ``.safetensors``, ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` or ``.tar`` file, by dotted name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, holds no tensor, or would have to execute code to be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r} (looked from {str(Path.cwd())!r})")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} is no file of torch's, or holds Python objects beside its tensors, which could execute anything when "
            f"read, so it was not ({str(error).splitlines()[0]}). Where you trust it, save its state dict alone: torch.save("
            f"torch.load({path.name!r}, weights_only=False)['state_dict'], 'weights.pth')."
        ) from error
    except Exception as error:
        raise ValueError(f"{path.name} cannot be read as a checkpoint: {error}. Is the file complete?") from error
    state = dict(_flat(content))
    if not state:
        raise ValueError(f"{path.name} holds no tensors; a state dict was expected, but it is a {type(content).__name__}")
    return state


def _flat(content: object, at: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        return [(at, content)]
    if not isinstance(content, Mapping):
        return []
    return [pair for key, value in content.items() for pair in _flat(value, f"{at}.{key}" if at else str(key))]


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    prefix: str | None = None,
    match: Literal["name", "order"] = "name",
    partial: bool = False,
    convert: Callable[[State], State] | None = None,
) -> str:
    """Loads a checkpoint into a model and returns a sentence about what was used and what was not.

    Arguments:
        model: Changed in place.
        path: Of the file; see :func:`read_checkpoint`.
        prefix: What stands before the names of the model's tensors in the file (``"teacher.backbone."``). By default the one
            under which most of them are found; where several are equal, a teacher's or moving average's comes first, as such
            encoders are evaluated with those.
        match: ``"order"`` takes the tensors one after the other, whatever their names, and demands that the shapes agree: for
            files of another implementation of the same architecture. What is left over at the end (a classifier) is not used.
        partial: Whether tensors that the file does not have may stay as they were initialised (with a warning). Even then at
            least half must be found.
        convert: Applied to the file's tensors after the prefix is stripped, such as timm's interpolation of positions.

    Raises:
        FileNotFoundError, ValueError: As in :func:`read_checkpoint`.
        ValueError: If tensors of the model are missing from the file or have other shapes.
    """
    name, own, state = Path(path).name, model.state_dict(), read_checkpoint(path)
    if match == "order":
        if name.endswith(".safetensors"):
            raise ValueError(f"{name} keeps its tensors sorted by name, so they cannot be matched by order; use a .pth file")
        state = _in_order(own, state, name)
        said = "by order"
    else:
        chosen, others = _prefix(own, state) if prefix is None else (prefix, [])
        state = {k.removeprefix(chosen): v for k, v in state.items() if k.startswith(chosen)}
        said = f"under the prefix {chosen!r}" if chosen else "by name"
        said += f" ({', '.join(map(repr, others))} would fit as well; choose with prefix=)" if others else ""
        state = convert(state) if convert else state
    other = {k: tuple(v.shape) for k, v in state.items() if k in own and v.shape != own[k].shape}
    found = {k: v for k, v in state.items() if k in own and k not in other}
    missing = [k for k in own if k not in found and not k.endswith("num_batches_tracked")]
    unused = [k for k in state if k not in own]
    needed = len(missing) + sum(not k.endswith("num_batches_tracked") for k in found)
    report = f"{name}: {needed - len(missing)} of the model's {needed} tensors found {said}"
    report += f"; missing: {_some(k for k in missing if k not in other)}" if set(missing) - set(other) else ""
    report += "".join(f"; {k} has the shape {s}, but the model needs {tuple(own[k].shape)}" for k, s in list(other.items())[:3])
    report += f"; not used: {_some(unused)}" if unused else ""
    if missing and (not partial or 2 * len(missing) > needed):
        raise ValueError(
            f"{report}. Is it the same architecture? The file's names begin with {_some(state, 3)}, the model's "
            f"with {_some(own, 3)}. "
            "Say prefix='...' where the network stands deeper, match='order' where the same network has other "
            "names, partial=True to leave the missing tensors as they are initialised."
        )
    if missing:
        warnings.warn(f"{report}. The missing tensors keep their random values.", stacklevel=2)
    model.load_state_dict(found, strict=False)
    logging.getLogger(__name__).info(report)
    return report


def _prefix(own: State, state: State) -> tuple[str, list[str]]:
    """Returns the prefix under which most of the model's tensors stand, and others that are as good."""
    counts = Counter()
    for key in state:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in own:
                counts[".".join([*parts[:i], ""]) if i else ""] += 1
    if not counts:
        return "", []
    best = [p for p, n in counts.items() if n == max(counts.values())]
    best.sort(key=lambda p: not any(word in p for word in ("ema", "teacher")))  # a stable sort: else the first in the file
    return best[0], best[1:]


def _in_order(own: State, state: State, name: str) -> State:
    keys = [k for k in own if not k.endswith("num_batches_tracked")]
    values = [(k, v) for k, v in state.items() if not k.endswith("num_batches_tracked")]
    for i, key in enumerate(keys):
        if i == len(values) or values[i][1].shape != own[key].shape:
            got = f"{values[i][0]} of shape {tuple(values[i][1].shape)}" if i < len(values) else "nothing more"
            raise ValueError(
                f"{name}: tensor {i} of the model is {key} of shape {tuple(own[key].shape)}, but the file has {got}; "
                "taken in order, the tensors must have the same shapes. Is it the same architecture?"
            )
    return dict(zip(keys, (v for _, v in values), strict=False)) | dict(values[len(keys) :])


def _some(names: object, n: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
