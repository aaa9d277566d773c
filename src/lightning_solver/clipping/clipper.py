"""A clipping at work on the parameters that it is for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_solver.clipping.clip import Clip
from lightning_solver.clipping.norms import Gradients
from lightning_solver.clipping.ways import Clipped
from lightning_solver.errors import SolverError
from lightning_solver.rules.depth import Depths, find_depths
from lightning_solver.rules.inventory import Parameter, take_inventory
from lightning_solver.rules.selection import Selection

__all__ = ["Clipped", "Clipper", "make_clipper", "selected"]


class Clipper:
    """A clipping at work; made by :meth:`Clip.over`.

    Args:
        clip: The clipping.
        groups: The parameters that it is for, by parameter group.

    Attributes:
        clip: The clipping.
        groups: The parameters that it is for, by parameter group.
    """

    def __init__(self, clip: Clip, groups: Sequence[Sequence[Tensor]]) -> None:
        self.clip = clip
        self.groups = tuple(tuple(group) for group in groups if group)
        self._way = clip.way()
        units = self.groups if self._way.by_group else [[tensor for group in self.groups for tensor in group]]
        self._units = [Gradients(unit) for unit in units]

    @torch.no_grad()
    def apply(self, *, limit: float | None = None, measure: bool = True) -> Clipped:
        """Clip the gradients that are there, in place.

        Args:
            limit: The limit, in place of the clipping's own.
            measure: Whether norms and shares are wanted that are no by-product of the clipping.

        Returns:
            What was measured; nothing if there is no gradient.
        """
        limit = self.clip.limit if limit is None else limit
        if not any(self._units):
            return Clipped(limit=limit)
        return self._way.clip(self._units, limit, measure=measure)

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt (of ``AutoClip`` and ``ZClip``), as tensors and plain data."""
        return self._way.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Args:
            state: It.
        """
        if state:
            self._way.load_state_dict(state)


def make_clipper(clip: Clip, parameters: nn.Module | Iterable[Tensor] | Sequence[Iterable[Tensor]]) -> Clipper:
    """A clipping over parameters; see :meth:`Clip.over`."""
    if isinstance(parameters, nn.Module):
        trained = [tensor for tensor in parameters.parameters() if tensor.requires_grad]
        chosen = {id(tensor) for tensor in selected(clip, parameters, trained)}
        return Clipper(clip, [[tensor for tensor in trained if id(tensor) in chosen]])
    if clip.of is not None or clip.exceptions:
        do = "pass the module in place of its parameters"
        raise SolverError(type(clip).__name__, "has selectors, which need names and layers", do=do)
    groups, spared = _groups_of(clip, parameters), clip.spared
    flat = [tensor for group in groups for tensor in group]
    if spared and flat:
        kept = {id(tensor) for tensor in flat[:-spared]}
        if not kept:
            where = f"{type(clip).__name__}.spare_last"
            raise SolverError(where, "spares all that is given", got=f"{len(flat)} parameters", do="lower it")
        groups = [[tensor for tensor in group if id(tensor) in kept] for group in groups]
    return Clipper(clip, groups)


def _groups_of(clip: Clip, parameters: Iterable[Tensor] | Sequence[Iterable[Tensor]]) -> list[list[Tensor]]:
    """Parameters, or groups of them, as groups; a tensor alone is one parameter, not its rows."""
    given: list[Any] = [parameters] if isinstance(parameters, Tensor) else [*parameters]
    if all(isinstance(item, Tensor) for item in given):
        return [given]
    what = "takes a module, parameters, or lists of parameters"
    do = "pass optimizer.param_groups as [group['params'] for group in optimizer.param_groups]"
    groups: list[list[Tensor]] = []
    for item in given:
        one = isinstance(item, (Tensor, Mapping)) or not isinstance(item, Iterable)
        group = [] if one else [*item]
        if one or not all(isinstance(tensor, Tensor) for tensor in group):
            raise SolverError(type(clip).__name__, what, got=f"{type(item).__name__} among them", do=do)
        groups.append(group)
    return groups


def selected(
    clip: Clip,
    module: nn.Module,
    trained: Sequence[Tensor],
    where: str = "clip",
    *,
    depths: Callable[[], Depths] | None = None,
    notes: list[str] | None = None,
) -> list[Tensor]:
    """The parameters that a clipping is for, in the order of ``module.named_parameters()``.

    Args:
        clip: The clipping.
        module: The module.
        trained: Those of its parameters that may be chosen.
        where: The path of the clipping, for error messages.
        depths: Gives the depths of parameters, when a selector asks for them; by default as ``depth: auto`` does.
        notes: What is odd is added here.

    Raises:
        SolverError: A selector by name or class that selects nothing, or nothing left to clip.
    """
    spared = clip.spared
    if clip.of is None and not clip.exceptions and not spared:
        return [*trained]
    known = {id(tensor) for tensor in trained}
    inventory = take_inventory(module)
    ours = [parameter for parameter in inventory if id(parameter.tensor) in known]
    given = depths or functools.cache(lambda: find_depths(module, inventory, "auto"))
    chosen = [parameter.tensor for parameter in _among(clip, ours, given, where, [] if notes is None else notes)]
    if spared:
        last = {id(parameter.tensor) for parameter in inventory[-spared:]}
        chosen = [tensor for tensor in chosen if id(tensor) not in last]
    if not chosen:
        do = "correct its selectors, or leave it out"
        raise SolverError(where, "is for no parameter that is trained", got=clip.describe(), do=do)
    return chosen


def _among(
    clip: Clip, ours: Sequence[Parameter], depths: Callable[[], Depths], where: str, notes: list[str]
) -> list[Parameter]:
    selection = Selection(ours, first_names=False, depths=depths, notes=notes)
    chosen = selection.found(clip.of, f"{where}.of") if clip.of is not None else set(range(len(ours)))
    many = isinstance(clip.unless, tuple)
    for i, selector in enumerate(clip.exceptions):
        chosen = chosen - selection.found(selector, f"{where}.unless[{i}]" if many else f"{where}.unless")
    return [ours[index] for index in sorted(chosen)]
