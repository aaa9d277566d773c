"""Which tensors an average is of, and their names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from lightning_solver.averaging.average import Average, globs
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.rules.inventory import own_name

Tensors = nn.Module | Mapping[str, Tensor] | Iterable[Tensor]
Scope = Callable[[str, Tensor], bool]


def averaged_tensors(
    tensors: Tensors, average: Average, where: str = "average", scope: Scope | None = None
) -> dict[str, Tensor]:
    """The tensors that an average is of, by their names in the user's module.

    Of a module: the parameters that require a gradient, each once, by its first name, and buffers as the average says.

    Args:
        tensors: A module, tensors by name, or tensors, whose names are their places.
        average: The average.
        where: The path of the average, for error messages.
        scope: Which of the parameters and buffers of a module the average may be of, by name and tensor.

    Raises:
        SolverError: A glob matches nothing, or nothing is left.
    """
    known = _known(tensors, f"{where}.over")
    lazy = [name for name, tensor in known.items() if is_lazy(tensor)]
    if lazy:
        do = "run a batch through the model before training starts (in setup or configure_model)"
        raise SolverError(lazy[0], "is not initialised yet, and cannot be averaged", got="a lazy module", do=do)
    found = dict(known)
    if isinstance(tensors, nn.Module):
        found = {name: tensor for name, tensor in known.items() if tensor.requires_grad}
        found |= {name: buffer for name, buffer, owner in saved_buffers(tensors) if _follows(buffer, owner, average)}
        if scope is not None:
            found = {name: tensor for name, tensor in found.items() if scope(name, tensor)}
    for field, wanted in (("only", True), ("leave_out", False)):
        patterns = globs(getattr(average, field))
        hits = set()
        for pattern in patterns:
            matches = re.compile(fnmatch.translate(pattern)).match
            new = {name for name in known if matches(name)}
            if not new:
                do = suggestion(pattern, known, "names")
                raise SolverError(f"{where}.{field}", "matches no parameter or buffer", got=repr(pattern), do=do)
            hits |= new
        if patterns:
            found = {name: tensor for name, tensor in found.items() if (name in hits) is wanted}
    if not found:
        do = "correct only and leave_out, or pass what is trained"
        raise SolverError(where, "there is nothing to average", got=f"{len(known)} tensors, none of them left", do=do)
    return found


def _known(tensors: Any, where: str) -> dict[str, Tensor]:
    """All tensors of what was given, by name."""
    if isinstance(tensors, nn.Module):
        found: dict[str, Tensor] = {own_name(name): tensor for name, tensor in tensors.named_parameters()}
        return found | {name: buffer for name, buffer, _ in saved_buffers(tensors)}
    if not isinstance(tensors, (Mapping, Iterable)):
        do = "pass the module, tensors by name, or tensors"
        raise SolverError(where, "takes a module or tensors", got=type(tensors).__name__, do=do)
    known = dict(tensors) if isinstance(tensors, Mapping) else {str(i): one for i, one in enumerate(tensors)}
    for tensor in known.values():
        if not isinstance(tensor, Tensor):
            do = "pass the module, or dict(model.named_parameters())"
            raise SolverError(where, "takes a module or tensors", got=type(tensor).__name__, do=do)
    return known


def saved_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """Name, buffer and owner of every buffer that is saved with a module, each once."""
    seen: set[int] = set()
    for prefix, owner in module.named_modules():
        for leaf, buffer in owner.named_buffers(recurse=False):
            if leaf in owner._non_persistent_buffers_set or id(buffer) in seen:
                continue
            seen.add(id(buffer))
            yield own_name(f"{prefix}.{leaf}" if prefix else leaf), buffer, owner


def has_statistics(owner: nn.Module) -> bool:
    """Whether the buffers of a module are the running statistics of a batch norm or the like, and their count."""
    return isinstance(owner, _NormBase)


def _follows(buffer: Tensor, owner: nn.Module, average: Average) -> bool:
    """Whether an average has numbers of its own for a buffer."""
    if average.update_bn and has_statistics(owner):
        return True
    if average.buffers == "copy" or not (buffer.is_floating_point() or buffer.is_complex()):
        return False
    if buffer.layout is not torch.strided or buffer.dtype.itemsize < 2:
        return False
    # a mask of -inf is a constant, of which the mean would be nan
    return buffer.is_meta or bool(torch.isfinite(buffer).all())
