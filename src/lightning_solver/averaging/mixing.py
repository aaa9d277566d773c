"""Weighted sums of ``state_dict``s, tensor by tensor."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_solver.averaging.files import PathLike, WeightFile, is_extra, read_weights, write_file
from lightning_solver.errors import SolverError

_CHUNK = 4_194_304  # numbers that are summed up at a time


def mix(
    files: Sequence[WeightFile],
    shares: Sequence[float],
    *,
    like: WeightFile | None = None,
    averaged: Callable[[str], bool] | None = None,
) -> OrderedDict[str, Any]:
    """The sum of weights, each times its share.

    Floating-point and complex tensors are summed up in float64 and rounded to their own type once. Tensors that are
    equal in all files come out to the last bit. Whole numbers (``num_batches_tracked``), masks and extra states are
    those of one file. Tensors that share memory in all files share it in the result.

    Memory: the result, and little more; the files are read tensor by tensor.

    Args:
        files: The files; of the same model.
        shares: Their shares, which sum up to 1.
        like: The file whose whole numbers and order of names are taken; by default the last one.
        averaged: Whether a tensor of a name is summed up; the others are taken from ``like``. By default all are.

    Raises:
        SolverError: The files are of different models.
    """
    like = like or files[-1]
    check_alike(files, like)
    mixed: OrderedDict[str, Any] = OrderedDict()
    made: dict[tuple[Any, ...], Tensor] = {}
    states = [file.weights for file in files]
    for name, value in like.weights.items():
        if is_extra(name) or not isinstance(value, Tensor):
            mixed[name] = value
            continue
        chosen = averaged is None or averaged(name)
        tensors = [state[name].detach() for state in states] if chosen else [value.detach()]
        place = (*(_place(tensor) for tensor in tensors), chosen)
        if not value.numel() or place not in made:
            made[place] = _sum(tensors, shares, value.detach()) if chosen else value.detach().clone()
        mixed[name] = made[place]
    metadata = getattr(like.weights, "_metadata", None)
    if metadata is not None:
        mixed._metadata = metadata  # type: ignore[attr-defined]
    return mixed


def check_alike(files: Sequence[WeightFile], like: WeightFile) -> None:
    """Refuse files that are not of the same model.

    Args:
        files: The files.
        like: The one that the others are compared with.

    Raises:
        SolverError: A tensor is missing, or of another shape or type.
    """
    expected = like.weights
    for file in files:
        own = file.weights
        for one, other in ((file, like), (like, file)):
            missing = [name for name in other.weights if name not in one.weights and not is_extra(name)]
            if missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                what, do = f"has no {missing[0]}{more}, which {other.path} has", "average files of the same model"
                raise SolverError(str(one.path), what, do=do)
        for name, value in expected.items():
            if is_extra(name):
                continue
            found = own[name]
            if value.layout != torch.strided or found.layout != torch.strided:
                do = "average files with dense tensors"
                raise SolverError(f"{file.path}: {name}", "is not dense", got=str(found.layout), do=do)
            for what, here, there in (
                ("shape", str(tuple(found.shape)), str(tuple(value.shape))),
                ("type", str(found.dtype), str(value.dtype)),
            ):
                if here != there:
                    got, do = f"{here}, and {there} in {like.path}", "average files of the same model"
                    raise SolverError(f"{file.path}: {name}", f"has another {what}", got=got, do=do)


def save_average(
    path: PathLike,
    weights: Mapping[str, Any],
    origin: Mapping[str, Any],
    like: WeightFile | PathLike,
    *,
    force: bool = False,
) -> Path:
    """Write averaged weights into a file like another one.

    Args:
        path: Where.
        weights: The weights.
        origin: What they were made of, as plain data.
        like: The other file; see :meth:`WeightFile.replaced`.
        force: Whether a file that is there may be replaced.

    Returns:
        The path.

    Raises:
        SolverError: The other file is of another model; there is a file already, or it cannot be written.
    """
    if not isinstance(like, WeightFile):
        like = read_weights(like)
        check_alike([WeightFile(Path(path), {"state_dict": weights})], like)
    return write_file(like.replaced(weights, origin), path, force=force)


def normalised(weights: Sequence[float] | None, number: int) -> tuple[float, ...]:
    """Weights as shares that sum up to 1; equal ones by default.

    Args:
        weights: One for each file, >= 0, in any unit.
        number: How many files there are.

    Raises:
        SolverError: Not one for each file, or one that cannot be.
    """
    if weights is None:
        return (1.0 / number,) * number
    got = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != number:
        raise SolverError("weights", f"are not one for each of {number} files", got=got, do="give one for each file")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) <= 0:
        raise SolverError("weights", "must be >= 0, and not all 0", got=got, do="correct them")
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _sum(tensors: Sequence[Tensor], shares: Sequence[float], like: Tensor) -> Tensor:
    if not (like.is_floating_point() or like.is_complex()) or all(torch.equal(one, like) for one in tensors):
        return like.clone()
    wide = torch.complex128 if like.is_complex() else torch.float64
    mixed = torch.empty(like.shape, dtype=like.dtype)
    flat = mixed.view(-1)
    parts = [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, len(flat), _CHUNK):
        end = start + _CHUNK
        total = torch.zeros(len(flat[start:end]), dtype=wide)
        for part, share in zip(parts, shares):
            total.add_(part[start:end].to(wide), alpha=share)
        flat[start:end] = total.to(like.dtype)
    return mixed
