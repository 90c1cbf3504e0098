"""Read named tensors from others' files: without running code, from any nesting, with wrappers' names removed."""

import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor

from rankmatch import file_kinds

# Training checkpoints hold the best score as a numpy scalar, which numpy 1 and numpy 2 write under names of their own.
SAFE_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (scalar, "numpy.core.multiarray.scalar"),
    (scalar, "numpy._core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    (np.dtypes.Float16DType, "numpy.dtypes.Float16DType"),
    (np.dtypes.Float32DType, "numpy.dtypes.Float32DType"),
    (np.dtypes.Float64DType, "numpy.dtypes.Float64DType"),
]
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    pickle.UnpicklingError,
)  # observed with broken files
MAX_DEPTH = 3
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts that wrappers insert anywhere in names: torch.compile, FSDP, activation checkpointing."""
OUTER = ("module", "model", "net", "network")
"""First parts of names that belong to a module around the network: DistributedDataParallel, Lightning."""
BARE = ""


def read_state_dict(path: Path, wanted: Collection[str] = (), chosen: str = "", how: str = "") -> dict[str, Tensor]:
    """Read named tensors, bare or nested under any name, without running code from the file.

    Args:
        path: The file.
        wanted: Names in the module to fill; of several nests, only those with one of these names count.
        chosen: The nest to use, `model_ema` or `teacher.state_dict`; required if several count.
        how: The option with which a user chooses it, for the message.

    Raises:
        ValueError: The file cannot be read, holds no named tensors, or several such nests.
    """
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"weights {path} cannot be read: {_reason_of(path, error)}") from error
    nests = {name: _plainly_named(path, nest) for name, nest in _nests(content)}
    if not nests:
        raise ValueError(f"weights {path} hold no state dict (names to tensors){_what_there_is(content)}")
    return nests[_choice(path, nests, wanted, chosen, how)]


def _nests(content: Any, place: str = BARE, depth: int = 0) -> Iterator[tuple[str, Mapping[str, Tensor]]]:  # noqa: ANN401
    """Find the mappings of names to tensors, each with its path, `model` or `teacher.state_dict`."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield place, content
    elif depth < MAX_DEPTH:
        for name, value in content.items():
            yield from _nests(value, f"{place}.{name}" if place else name, depth + 1)


def _choice(
    path: Path, nests: Mapping[str, Mapping[str, Tensor]], wanted: Collection[str], chosen: str, how: str
) -> str:
    if chosen:
        if chosen not in nests:
            there = ", ".join(nests) if BARE not in nests else "bare tensors, without a nest"
            raise ValueError(f"weights {path} hold {there}; there is no {chosen!r}")
        return chosen
    fitting = [name for name, nest in nests.items() if any(one in nest for one in wanted)]
    counting = fitting or list(nests)
    if len(counting) > 1:
        raise ValueError(
            f"weights {path} hold several state dicts ({', '.join(counting)}); choose one{how and ': '}{how}"
        )
    return counting[0]


def _plainly_named(path: Path, nest: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the parts that wrappers add to a network's names."""
    state = {_without_wrappers(name): value for name, value in nest.items() if name != "n_averaged"}  # AveragedModel's
    while outer := _outer_of(state):  # a wrapper may stand behind it: model.module.
        state = {_without_wrappers(name.removeprefix(f"{outer}.")): value for name, value in state.items()}
    if len(state) < len(nest) - ("n_averaged" in nest):
        raise ValueError(f"weights {path} have a name twice, with and without what a wrapper adds to it")
    return state


def _outer_of(names: Collection[str]) -> str:
    """Return the first part that all names share if it belongs to a module around the network; otherwise nothing."""
    return next((outer for outer in OUTER if names and all(name.startswith(f"{outer}.") for name in names)), "")


def _without_wrappers(name: str) -> str:
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def _what_there_is(content: Any) -> str:  # noqa: ANN401
    if isinstance(content, Mapping):
        return f"; their keys are {', '.join(map(str, list(content)[:8])) or '(none)'}"
    return f"; they are a {type(content).__name__}"


def _reason_of(path: Path, error: Exception) -> str:
    """Return a file's fault in one line, without torch's advice to load it unsafely."""
    if kind := file_kinds.describe(path):
        return f"the file {kind}"
    if found := re.search(r"GLOBAL (\S+)|got <class '([^']+)'>", str(error)):
        return f"it holds {found[1] or found[2]}, and only tensors and plain values are read"
    if isinstance(error, LookupError | pickle.UnpicklingError):
        return "it was not written by torch.save"
    if isinstance(error, RuntimeError) and not zipfile.is_zipfile(path):
        return "it is cut off: torch.save's archive has no end"
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
