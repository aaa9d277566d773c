"""Files with weights: found, read without loading what is not needed, and written with the weights changed."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_solver.errors import SolverError, suggestion

ORIGIN_KEY = "lightning_solver_average_of"
"""Where a file says of which files it is an average."""

PathLike = str | os.PathLike[str]

_VERSION_KEY = "pytorch-lightning_version"
_OF_TRAINING = {
    "optimizer_states",
    "lr_schedulers",
    "loops",
    "callbacks",
    "MixedPrecision",  # the loss scaler, by the names that Lightning's precision plugins have had
    "FSDPPrecision",
    "FSDPMixedPrecisionPlugin",
    "MixedPrecisionPlugin",
    "NativeMixedPrecisionPlugin",
    "native_amp_scaling_state",
    "amp_scaling_state",
}
_OWN = "lightning_solver_"  # what this package adds is about the run that is left behind


@dataclass(frozen=True)
class WeightFile:
    """A file with weights. Tensors lie in the file until somebody looks at them.

    Args:
        path: Where it is.
        content: All that is in it.
        key: Where in it the weights are, with points between the keys; ``""`` if they are all that there is.
    """

    path: Path
    content: Mapping[str, Any] = field(repr=False)
    key: str = "state_dict"

    @property
    def weights(self) -> Mapping[str, Any]:
        """The ``state_dict``."""
        found: Any = self.content
        for name in self.key.split(".") if self.key else ():
            found = found[name]
        weights: Mapping[str, Any] = found
        return weights

    @property
    def step(self) -> int | None:
        """The ``global_step`` of a Lightning checkpoint; ``None`` where the file does not say."""
        step = self.content.get("global_step")
        return step if isinstance(step, int) else None

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """What an average of files says of itself; ``None`` for every other file."""
        metadata = getattr(self.weights, "_metadata", None) or {}
        found = self.content.get(ORIGIN_KEY) or metadata.get("", {}).get(ORIGIN_KEY)
        return found if isinstance(found, Mapping) else None

    def replaced(self, weights: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
        """What a file like this one with other weights holds.

        A Lightning checkpoint stays one, without what is of use for the rest of its training only (optimisers, loops,
        callbacks). Of another file only the weights remain, where they were.

        Args:
            weights: The weights.
            origin: What they were made of, as plain data.
        """
        if _VERSION_KEY in self.content and self.key == "state_dict":
            kept = {
                name: value
                for name, value in self.content.items()
                if name not in _OF_TRAINING and not name.startswith(_OWN)
            }
            return {**kept, "state_dict": weights, ORIGIN_KEY: dict(origin)}
        if not self.key:
            metadata = dict(getattr(weights, "_metadata", None) or {})
            metadata[""] = {**metadata.get("", {}), ORIGIN_KEY: dict(origin)}
            weights._metadata = metadata  # type: ignore[attr-defined]
            return weights  # type: ignore[return-value]
        inner: Any = weights
        for name in reversed(self.key.split(".")):
            inner = {name: inner}
        return {**inner, ORIGIN_KEY: dict(origin)}


def read_weights(path: PathLike, key: str | None = None) -> WeightFile:
    """Open a file with weights: a checkpoint, or a ``state_dict`` by itself.

    Args:
        path: The file; it must load with ``weights_only=True``.
        key: Where in it the weights are, with points between the keys. By default ``state_dict``, or the whole file if
            it holds nothing but tensors.

    Raises:
        SolverError: It cannot be read, or has no weights there.
    """
    path = Path(path)
    if path.is_dir():
        if is_sharded_checkpoint(path):
            do = "make one file of it, by python -m lightning.pytorch.utilities.consolidate_checkpoint"
            raise SolverError(str(path), "is a sharded checkpoint", do=do)
        raise SolverError(str(path), "is a folder", do="name a file")
    try:
        # Files of before torch 1.6 are no zip files, and are read as a whole.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever torch makes of a file that is no checkpoint
        raise _unreadable(path, error) from error
    where = str(path)
    if not isinstance(content, Mapping):
        do = "give a checkpoint or a state_dict"
        raise SolverError(where, "holds no mapping", got=type(content).__name__, do=do)
    if key is None:
        key = "" if "state_dict" not in content and _is_state_dict(content) else "state_dict"
    found: Any = content
    for name in key.split(".") if key else ():
        if not isinstance(found, Mapping) or name not in found:
            known = found if isinstance(found, Mapping) else {}
            do = f"say where the weights are by --key: {suggestion(name, map(str, known), 'keys')}"
            raise SolverError(where, f"has no {key}", do=do)
        found = found[name]
    if not isinstance(found, Mapping) or not _is_state_dict(found):
        got = type(found).__name__ if not isinstance(found, Mapping) else f"keys {', '.join(map(str, [*found][:8]))}"
        do = "say where the weights are by --key"
        raise SolverError(where, f"has no state_dict under {key}" if key else "is no state_dict", got=got, do=do)
    return WeightFile(path, content, key)


def _unreadable(path: Path, error: Exception) -> SolverError:
    if not path.is_file():
        return SolverError(str(path), "is not a file", do="give a checkpoint, or a folder with checkpoints")
    refused = re.search(r"Unsupported (?:global|class)[: ]+(?:GLOBAL )?([\w.]+)", str(error))
    if refused is not None:
        do = f"save it without, or call from Python inside of torch.serialization.safe_globals([{refused[1]}])"
        return SolverError(str(path), f"holds a {refused[1]}, which weights_only=True refuses", do=do)
    do = "give a checkpoint, or a state_dict that torch.save has written"
    return SolverError(str(path), f"cannot be read: {type(error).__name__}", do=do)


def _is_state_dict(data: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in data.values()) and all(
        isinstance(key, str) and (isinstance(value, Tensor) or is_extra(key)) for key, value in data.items()
    )


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether a folder is one checkpoint, in which each process has its part."""
    return (path / ".metadata").is_file()


def is_extra(name: str) -> bool:
    """Whether an entry of a ``state_dict`` is what a module adds by ``get_extra_state``, of which nobody knows more."""
    return name.rpartition(".")[2] == "_extra_state"


# ------------------------------------------------------------------ which files


@dataclass(frozen=True)
class Found:
    """The files that somebody meant.

    Args:
        files: The files, in the order in which they were given, those of a folder by their steps.
        notes: What was left out, and why.
    """

    files: tuple[WeightFile, ...]
    notes: tuple[str, ...] = ()


def as_paths(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Paths as a list; a single one is one, and not its letters.

    Args:
        paths: One path or several.
    """
    return [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]


def find_weights(
    paths: PathLike | Iterable[PathLike], *, key: str | None = None, pattern: str = "*.ckpt", last: int | None = None
) -> Found:
    """Open files, and the checkpoints in folders.

    In a folder, averages that were made of other files are left out, and a ``last.ckpt`` of the same step as another
    file. The order in a folder is that of ``global_step``; if one of the files does not say it, that of the names,
    numbers in them compared as numbers.

    Args:
        paths: Files and folders.
        key: See :func:`read_weights`.
        pattern: The glob for files in folders.
        last: Take this many files only, those of the last steps.

    Raises:
        SolverError: One cannot be read, is there twice, or a folder has none; ``last`` is more than there are.
    """
    if last is not None and last < 1:
        raise SolverError("last", "must be at least 1", got=str(last), do="say how many files to take")
    files: list[WeightFile] = []
    notes: list[str] = []
    for path in as_paths(paths):
        if path.is_dir() and not is_sharded_checkpoint(path):
            inside = [read_weights(one, key) for one in sorted(path.glob(pattern)) if one.is_file()]
            chosen, said = _of_folder(inside)
            if not chosen:
                got = "nothing" if not inside else f"{len(inside)} averages of other files"
                raise SolverError(str(path), f"has no checkpoints ({pattern})", got=got, do="give another folder")
            files += chosen
            notes += said
        else:
            files.append(read_weights(path, key))
    seen: dict[Path, Path] = {}
    for file in files:
        real = file.path.resolve()
        if real in seen:
            what = f"is the same file as {seen[real]}" if seen[real] != file.path else "is given twice"
            raise SolverError(str(file.path), what, do="give it once; weights say how much it counts")
        seen[real] = file.path
    if last is not None:
        if last > len(files):
            raise SolverError("last", "is more than there are", got=f"{last} of {len(files)} files", do="correct it")
        files = in_order(files)[-last:]
    return Found(tuple(files), tuple(notes))


def _of_folder(files: Sequence[WeightFile]) -> tuple[list[WeightFile], list[str]]:
    notes = [f"{file.path}: left out, as it is an average of files" for file in files if file.origin is not None]
    files = [file for file in files if file.origin is None]
    lasts = [file for file in files if re.fullmatch(r"last(-v\d+)?", file.path.stem)]
    others = [file for file in files if file not in lasts]
    for file in lasts:
        same = [one for one in others if file.step is not None and one.step == file.step]
        if same:
            notes.append(f"{file.path}: left out, as {same[0].path.name} is of the same step")
        else:
            others.append(file)
    return in_order(others), notes


def in_order(files: Sequence[WeightFile]) -> list[WeightFile]:
    """Files by their steps; by their names if one does not say its step.

    Args:
        files: The files.
    """
    if all(file.step is not None for file in files):
        return sorted(files, key=lambda file: file.step or 0)
    return sorted(files, key=lambda file: _natural(file.path.name))


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts)]


# ------------------------------------------------------------------ writing


def write_file(content: Any, path: PathLike, *, force: bool = False) -> Path:
    """Write a file as a whole or not at all.

    Args:
        content: What ``torch.save`` takes.
        path: Where.
        force: Whether a file that is there may be replaced.

    Returns:
        The path.

    Raises:
        SolverError: There is a file already, or it cannot be written.
    """
    path = Path(path)
    refuse_place(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            torch.save(content, file)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        do = "give a path that can be written"
        raise SolverError(str(path), f"cannot be written: {error.strerror}", do=do) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def refuse_place(path: PathLike, *, force: bool) -> None:
    """Refuse to write over a file, or where nothing can be written.

    Args:
        path: Where something is to be written.
        force: Whether a file that is there may be replaced.

    Raises:
        SolverError: There is a file that may not be replaced, or a folder; or no folder for it.
    """
    if not Path(path).parent.is_dir():
        do = "give a path in a folder that is there"
        raise SolverError(str(path), "cannot be written: there is no such folder", do=do)
    if Path(path).is_dir():
        raise SolverError(str(path), "is a folder", do="give the path of a file")
    if Path(path).exists() and not force:
        raise SolverError(str(path), "is there already", do="give another path, or --force to replace it")
