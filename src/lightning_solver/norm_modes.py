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
        plan: The plan.
        module: The module that was planned.
    """

    def __init__(self, plan: Plan, module: nn.Module) -> None:
        self._plan = plan
        group_of = {id(t): i for i, group in enumerate(plan.groups) for t in group.tensors}
        by_rule = {name for name, reason in plan.left_out.items() if reason.startswith("frozen by ")}
        holders: dict[int, Holder] = {}
        held: dict[int, list[int | None]] = {}
        for parameter in take_inventory(module):
            for place in parameter.places:
                if getattr(place.owner, "running_mean", None) is None:
                    continue
                holders[id(place.owner)] = place.holder
                out = parameter.name in by_rule
                if out or id(parameter.tensor) in group_of:
                    held.setdefault(id(place.owner), []).append(None if out else group_of[id(parameter.tensor)])
        self._layers = [
            (holder.module, frozenset(i for i in held[key] if i is not None))
            for key, holder in holders.items()
            if key in held and all(i is None or plan.groups[i].frozen is not None for i in held[key])
        ]
        self._stopped: set[int] = set()

    def __len__(self) -> int:
        """How many layers are frozen at some step."""
        return len(self._layers)

    def set(self, step: int) -> None:
        """Give every such layer the mode that it has in a step; to be called before the forward pass.

        Args:
            step: The number of the step that comes next, 0-based.
        """
        if not self._layers:
            return
        frozen = {i for i, group in enumerate(self._plan.groups) if group.frozen is not None and group.frozen.at(step)}
        for layer, groups in self._layers:
            if groups <= frozen:
                self._stopped.add(id(layer))
                layer.eval()
            elif id(layer) in self._stopped:
                self._stopped.discard(id(layer))
                layer.train()
