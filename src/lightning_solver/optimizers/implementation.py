"""Which implementation of an optimiser is the fastest that is right here, found out by trying.

Torch's optimisers come as a loop over tensors, as operations on all tensors at once (``foreach``) and as one kernel
(``fused``). Which of them a class has, and on which devices, dtypes and options, differs between versions of torch.
No table of that is kept: each is tried on small stand-ins, and has to give the numbers of the loop. Not all of them do:
on the CPU, the fused SGD of torch 2.13 goes wrong in half precision, and all its fused kernels on tensors with gaps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_solver.optimizers.recipe import Recipe
from lightning_solver.optimizers.sharded import refuse_sharded
from lightning_solver.optimizers.stand_ins import Kind, in_words, kinds_of, take_steps
from lightning_solver.plain import FrozenDict
from lightning_solver.sharding import local

__all__ = [
    "Implementation",
    "choose",
    "keep_layout",
    "refuse_sharded",
    "sparse_parameters",
    "unscale_before",
]

SWITCHES = ("fused", "foreach")
SMALL = 4096
"""Numbers per tensor up to which all at once beat the loop on the CPU, where torch's foreach operations are loops too.

Measured on one thread: Adam, NAdam, RMSprop and SGD are 1.3 to 1.7 times faster up to 64 x 64; all but SGD then take
1.4 times as long at 128 x 128, as each operation goes through memory anew. It also needs the parameters' memory again.
"""


@dataclass(frozen=True)
class Implementation:
    """How an optimiser does its arithmetic.

    Args:
        name: ``fused``, ``foreach``, ``loop``, or ``own`` if the class offers no choice.
        why: The reason, in words.
        args: Arguments to add when the optimiser is built.
        tried: Whether a step on stand-ins was possible; where it was not, the first real one will fail too.
    """

    name: str
    why: str
    args: Mapping[str, Any]
    tried: bool = True

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def choose(
    recipe: Recipe,
    tensors: Sequence[Tensor],
    options: Sequence[Mapping[str, Any]] = (),
    *,
    sparse: Collection[Tensor] = (),
) -> Implementation:
    """The fastest implementation that gives the numbers of the loop.

    What the user has given (``fused``, ``foreach``, ``differentiable``, in the arguments or by a rule) stands.

    Args:
        recipe: The optimiser.
        tensors: The parameters.
        options: The options of each group.
        sparse: Those of the parameters that get sparse gradients; see :func:`sparse_parameters`.
    """
    if not recipe.takes.intersection(SWITCHES):
        return Implementation("own", f"{recipe.cls.__name__} has one implementation", FrozenDict())
    changed = [_changed(recipe, group) for group in options]
    given = _given(recipe, changed)
    if given is not None:
        return given
    kinds = kinds_of(tensors, {id(tensor) for tensor in sparse})
    if any(kind.device.type == "meta" for kind in kinds):
        on_cpu = [replace(kind, device=torch.device("cpu")) for kind in kinds]
        found = _fastest(recipe, on_cpu, changed, tensors)
        why = f"decided when built: the parameters are on the meta device; on the CPU it would be {found}"
        return Implementation(found.name, why, FrozenDict())
    return _fastest(recipe, kinds, changed, tensors)


def _changed(recipe: Recipe, group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a group that differ from the optimiser's own; a tensor always does."""
    return {
        option: value
        for option, value in group.items()
        if option in recipe.takes and (isinstance(value, Tensor) or value != recipe.defaults.get(option))
    }


def _given(recipe: Recipe, changed: Sequence[Mapping[str, Any]]) -> Implementation | None:
    """What the user has chosen."""
    for where, args in [("optimizer.args", recipe.args), *(("a rule", group) for group in changed)]:
        if args.get("differentiable"):
            why = f"{where} sets differentiable, which only the loop supports"
            return Implementation("loop", why, FrozenDict())
        for switch in SWITCHES:
            if args.get(switch):
                return Implementation(switch, f"{where} says so", FrozenDict())
        for switch in SWITCHES:
            if args.get(switch) is False:
                why = f"{where} says {switch}: false, which torch takes as a wish for the loop"
                return Implementation("loop", why, FrozenDict())
    return None


def _fastest(
    recipe: Recipe, kinds: Sequence[Kind], changed: Sequence[Mapping[str, Any]], tensors: Sequence[Tensor]
) -> Implementation:
    loop = {"foreach": False} if "foreach" in recipe.takes else {"fused": False}
    if not kinds or any(kind.form == "foreign" for kind in kinds):
        names = sorted({type(tensor).__name__ for tensor in tensors})
        return Implementation("loop", f"parameters of class {', '.join(names)}", FrozenDict(loop))
    groups = _representatives(changed)
    try:
        right = take_steps(recipe, kinds, groups, loop)
    except Exception as error:  # what the class may raise; it will say so again in the first step
        return Implementation("loop", f"a step could not be tried: {in_words(error)}", FrozenDict(loop), tried=False)
    refusals = []
    for switch in SWITCHES:
        if switch not in recipe.takes:
            refusals.append(f"{recipe.cls.__name__} has no {switch} implementation")
            continue
        if switch == "foreach" and (slow := _why_slow(kinds, tensors)):
            refusals.append(slow)
            continue
        try:
            found = take_steps(recipe, kinds, groups, {switch: True})
        except Exception as error:
            refusals.append(f"{switch} refuses: {in_words(error)}")
            continue
        if all(map(_agree, found, right)):
            where = ", ".join(sorted({_place(kind) for kind in kinds}))
            return Implementation(switch, "; ".join([f"tried on {where}", *refusals]), FrozenDict({switch: True}))
        refusals.append(f"{switch} gives other numbers than the loop")
    return Implementation("loop", "; ".join(refusals), FrozenDict(loop))


def _why_slow(kinds: Sequence[Kind], tensors: Sequence[Tensor]) -> str | None:
    """Why all tensors at once would be slower than one after another."""
    if any(kind.device.type != "cpu" or kind.mesh is not None for kind in kinds):
        return None
    mean = sum(tensor.numel() for tensor in tensors) / len(tensors)
    return f"on the CPU foreach is slower for tensors of {mean:,.0f} numbers on average" if mean > SMALL else None


def _representatives(changed: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One group of each sort: which numbers are 0 may matter, how large the others are does not."""
    sorts: dict[Any, Mapping[str, Any]] = {}
    for group in changed:
        sorts.setdefault(frozenset((option, _sort(value)) for option, value in group.items()), group)
    return list(sorts.values()) or [{}]


def _sort(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return repr(value)
    return value == 0


def _agree(a: Tensor, b: Tensor) -> bool:
    a, b = local(a), local(b)
    eps = torch.finfo(a.dtype).eps
    allowed = (64 if eps < 1e-4 else 8) * eps * float(b.abs().max())
    return bool((a - b).abs().max() <= allowed)  # which no NaN is


def _place(kind: Kind) -> str:
    dtype = str(kind.dtype).removeprefix("torch.")
    parts = [f"{kind.device.type} {dtype}"]
    parts += ["with gaps"] if kind.form == "strided" else []
    parts += ["sharded"] if kind.mesh is not None else []
    parts += ["with sparse gradients"] if kind.sparse else []
    return " ".join(parts)


def sparse_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters that get sparse gradients: weights of embeddings made with ``sparse=True``.

    Args:
        module: The module that is trained.
    """
    return [
        inner.weight
        for inner in module.modules()
        if isinstance(inner, (nn.Embedding, nn.EmbeddingBag)) and getattr(inner, "sparse", False)
    ]


def unscale_before(optimizer: Optimizer) -> None:
    """Make a loss scaler unscale the gradients before the step of an optimiser, not leave it to a fused kernel.

    Only then can they be clipped or measured in between; Lightning refuses to clip otherwise. A step with non-finite
    gradients is then skipped by the scaler, which waits for the device once a step to know.

    Args:
        optimizer: The optimiser.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def keep_layout(optimizer: Optimizer) -> None:
    """Lay out the state that an optimiser loads as its parameters are.

    A fused kernel on the CPU walks through a parameter and its moments side by side and does not look at their strides:
    moments saved from a contiguous model, loaded for one in ``channels_last``, would silently belong to other weights.

    Args:
        optimizer: The optimiser; it is given a hook.
    """
    optimizer.register_load_state_dict_post_hook(_lay_out)


def _lay_out(optimizer: Optimizer) -> None:
    for param, state in optimizer.state.items():
        if type(param) not in (nn.Parameter, Tensor) or not isinstance(state, dict):
            continue
        for key, value in state.items():
            if type(value) is not Tensor or value.shape != param.shape or value.layout is not torch.strided:
                continue
            if value.stride() != param.stride():
                state[key] = torch.empty_like(param, dtype=value.dtype, device=value.device).copy_(value).detach()
