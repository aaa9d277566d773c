"""The mode of normalisation layers whose parameters are frozen: their running statistics do not move either."""

from __future__ import annotations

from torch import nn

from lightning_solver.plan import Plan
from lightning_solver.rules.inventory import Holder, take_inventory


class NormModes:
    """Puts frozen layers with running statistics into evaluation mode, and back when they are unfrozen.

    Which layers are frozen is a pure function of the step. A layer counts as frozen while all of its parameters are,
    by a rule: those that are left out of the optimiser by ``frozen: true``, and those of groups that are frozen at the
    step. Layers without parameters of their own, and layers whose parameters the user has frozen, are left as they are.

    Args:
        module: The module that is trained.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._plan: Plan | None = None
        self._layers: list[tuple[nn.Module, frozenset[int]]] = []
        self._stopped: dict[int, nn.Module] = {}

    def set(self, plan: Plan, step: int) -> None:
        """Give every such layer the mode that it has in a step; to be called before the forward pass.

        Args:
            plan: The plan of the moment.
            step: The number of the step that comes next, 0-based.
        """
        if plan is not self._plan:
            self.release()
            self._plan, self._layers = plan, _layers(plan, self._module)
        if not self._layers:
            return
        frozen = {i for i, group in enumerate(plan.groups) if group.frozen is not None and group.frozen.at(step)}
        for layer, groups in self._layers:
            if groups <= frozen:
                self._stopped[id(layer)] = layer
                layer.eval()
            elif id(layer) in self._stopped:
                del self._stopped[id(layer)]
                layer.train()

    def release(self) -> None:
        """Put every layer that was stopped back into the mode of the module."""
        for layer in self._stopped.values():
            layer.train(self._module.training)
        self._stopped.clear()


def _layers(plan: Plan, module: nn.Module) -> list[tuple[nn.Module, frozenset[int]]]:
    """The layers that are frozen at some step, and the groups that hold their parameters."""
    group_of = {id(tensor): i for i, group in enumerate(plan.groups) for tensor in group.tensors}
    by_rule = {id(tensor) for tensor in plan.never}
    holders: dict[int, Holder] = {}
    held: dict[int, list[int | None]] = {}
    for parameter in take_inventory(module):
        for place in parameter.places:
            if getattr(place.owner, "running_mean", None) is None:
                continue
            holders[id(place.owner)] = place.holder
            out = id(parameter.tensor) in by_rule
            if out or id(parameter.tensor) in group_of:
                held.setdefault(id(place.owner), []).append(None if out else group_of[id(parameter.tensor)])
    return [
        (holder.module, frozenset(i for i in held[key] if i is not None))
        for key, holder in holders.items()
        if key in held and all(i is None or plan.groups[i].frozen is not None for i in held[key])
    ]
