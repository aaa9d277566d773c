"""Whether an optimiser gives sharded parameters (FSDP2) the step that it gives whole ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_solver.errors import SolverError
from lightning_solver.optimizers.recipe import Recipe
from lightning_solver.optimizers.stand_ins import Kind, in_words, quietly, waves, with_long_steps
from lightning_solver.optimizers.unhooked import trial_step


def refuse_sharded(
    recipe: Recipe, tensors: Sequence[Tensor], where: str = "optimizer", extra: Mapping[str, Any] | None = None
) -> None:
    """Make sure that an optimiser gives sharded parameters the step that it gives whole ones.

    An optimiser such as Muon works on whole matrices, and not every operation of torch can put one together from its
    shards. Each way of sharding is tried on small matrices that are cut as the parameters are, on all processes of the
    mesh at once: to be called by all of them. Does nothing where no parameter is a DTensor, or for a way of sharding in
    which torch cannot distribute a matrix by itself.

    Args:
        recipe: The optimiser.
        tensors: The parameters.
        where: Path for the error message.
        extra: Further arguments with which it will be built, such as those of an implementation.

    Raises:
        SolverError: Its step fails, or gives other numbers than on a whole parameter.
    """
    if not torch.distributed.is_available():
        return
    from torch.distributed.tensor import DTensor

    ways: dict[Any, DTensor] = {}
    for tensor in tensors:
        if type(tensor) is not nn.Parameter and isinstance(tensor, DTensor) and tensor.device.type != "meta":
            shape = _reduced(tensor.shape, tensor.device_mesh.size())
            ways.setdefault((tensor.device_mesh, tensor.placements, tensor.is_complex(), shape), tensor)
    for (_, placements, _, shape), tensor in ways.items():
        stand_ins = _whole_and_shards(tensor, shape)
        if stand_ins is None:
            continue
        what = f"{recipe.cls.__name__} cannot step over {list(tensor.shape)} sharded as {_spelled(placements)} (FSDP2)"
        do = "use another optimiser for it, or train by DDP, which keeps it whole"
        try:
            off = _off(recipe, stand_ins, extra or {})
        except Exception as error:  # whatever an operation without a rule for shards raises
            raise SolverError(where, what, got=in_words(error), do=do) from error
        if not off <= 0.25:  # Muon rounds to bfloat16, and sums over shards in another order; NaN is refused
            raise SolverError(where, what, got=f"an update that is off by {off:.0%}", do=do)


def _reduced(shape: Sequence[int], processes: int) -> tuple[int, ...]:
    """A small shape that is cut alike: what is small stays, what is large keeps its remainder and its order."""
    large = sorted({size for size in shape if size > 2 * processes})
    return tuple(
        (2 + large.index(size)) * processes + size % processes if size > 2 * processes else size for size in shape
    )


def _whole_and_shards(like: Any, shape: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]] | None:
    """A parameter and two gradients, whole and sharded as ``like`` is; ``None`` if torch cannot do that."""
    from torch.distributed.tensor import distribute_tensor

    dtype = torch.complex64 if like.is_complex() else torch.float32  # whose roundings hide no update
    kind = Kind(like.device, dtype, dtype, len(shape), "contiguous")
    whole = [waves(shape, kind, pace) for pace in (0.7, 1.1, 2.1)]
    try:
        shards = [distribute_tensor(tensor.clone(), like.device_mesh, like.placements) for tensor in whole]
        same = all(torch.equal(shard.full_tensor(), tensor) for shard, tensor in zip(shards, whole))
    except (NotImplementedError, RuntimeError, ValueError, AssertionError):
        return None
    return (whole, list(shards)) if same else None


def _off(recipe: Recipe, stand_ins: tuple[list[Tensor], list[Tensor]], extra: Mapping[str, Any]) -> float:
    """By how much the update of a sharded parameter differs from that of a whole one, in relation to its largest."""
    before, after = stand_ins[0][0].clone(), []
    for values, *slopes in stand_ins:
        param = nn.Parameter(values)
        with quietly([Kind(before.device, before.dtype, before.dtype, before.ndim, "contiguous")]):
            optimizer = recipe.cls([param], **{**with_long_steps(recipe.args, recipe, always=True), **extra})
            for slope in slopes:
                param.grad = slope
                trial_step(optimizer)
        after.append(param.detach())
    whole, shards = after
    difference = (shards.full_tensor() - whole).abs()  # type: ignore[attr-defined]
    if not difference.numel():
        return 0.0
    return float(difference.max()) / max(float((whole - before).abs().max()), 1e-12)


def _spelled(placements: Sequence[Any]) -> str:
    return ", ".join(map(repr, placements))
