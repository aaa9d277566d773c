"""Small stand-ins for parameters, on which a step of an optimiser is tried without anybody noticing."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_solver.optimizers.recipe import Recipe
from lightning_solver.optimizers.unhooked import trial_step

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Kind:
    """What an implementation may depend on in a tensor.

    Args:
        device: Where it is.
        dtype: Of what.
        grad_dtype: Of what its gradient is.
        ndim: Number of dimensions.
        form: ``contiguous``, ``dense`` (another order of the dimensions), ``strided`` (gaps or overlaps between its
            numbers), or ``foreign`` for a tensor of a class of somebody else's.
        sparse: Whether its gradient is sparse.
        mesh: The devices that it is spread over, if it is a DTensor.
    """

    device: torch.device
    dtype: torch.dtype
    grad_dtype: torch.dtype
    ndim: int
    form: str
    sparse: bool = False
    mesh: DeviceMesh | None = None


def kinds_of(tensors: Sequence[Tensor], sparse: Collection[int]) -> list[Kind]:
    """The different kinds among tensors, in one pass.

    Args:
        tensors: The parameters.
        sparse: ``id`` of those with sparse gradients.
    """
    kinds: dict[Kind, None] = {}
    seen: set[Any] = set()
    for tensor in tensors:
        plain = type(tensor) in (nn.Parameter, Tensor)
        grad_dtype = getattr(tensor, "grad_dtype", None) or tensor.dtype  # torch >= 2.10 lets them differ
        is_sparse = id(tensor) in sparse
        key = (tensor.device, tensor.dtype, grad_dtype, tensor.ndim, is_sparse, plain and tensor.is_contiguous())
        if key[-1] and key in seen:
            continue
        seen.add(key)
        mesh = None if plain else _mesh(tensor)
        form = _form(tensor) if plain else ("contiguous" if mesh is not None else "foreign")
        kinds[Kind(tensor.device, tensor.dtype, grad_dtype, tensor.ndim, form, is_sparse, mesh)] = None
    return list(kinds)


def _mesh(tensor: Tensor) -> DeviceMesh | None:
    if not torch.distributed.is_available():
        return None
    from torch.distributed.tensor import DTensor

    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def _form(tensor: Tensor) -> str:
    if tensor.layout is not torch.strided:
        return "foreign"
    if tensor.is_contiguous():
        return "contiguous"
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size != 1 and stride != expected:
            return "strided"
        expected *= size
    return "dense"


def take_steps(
    recipe: Recipe, kinds: Sequence[Kind], groups: Sequence[Mapping[str, Any]], switch: Mapping[str, Any]
) -> list[Tensor]:
    """Stand-ins for parameters of every kind in every group after two steps.

    Args:
        recipe: The optimiser.
        kinds: Kinds of parameters.
        groups: Options of groups.
        switch: The argument that chooses the implementation.

    Raises:
        Exception: Whatever the class does when it is made or stepped.
    """
    sizes = [(kind, shape) for kind in kinds for shape in _shapes(kind.ndim)]
    made = [[_stand_in(kind, shape) for kind, shape in sizes] for _ in groups]
    taken = [{"params": params, **with_long_steps(group, recipe)} for params, group in zip(made, groups)]
    with quietly(kinds):
        optimizer = recipe.cls(taken, **{**with_long_steps(recipe.args, recipe, always=True), **switch})
        for step in range(2):
            for params in made:
                for param, (kind, _) in zip(params, sizes):
                    param.grad = _gradient(param, kind, step)
            trial_step(optimizer)
    return [param.detach() for params in made for param in params]


def with_long_steps(options: Mapping[str, Any], recipe: Recipe, *, always: bool = False) -> dict[str, Any]:
    """Options with a learning rate whose steps are not lost in the rounding of the stand-ins.

    Args:
        options: Arguments of the optimiser, or options of a group.
        recipe: The optimiser.
        always: Whether they get a learning rate if they have none.
    """
    lr = options.get("lr", recipe.defaults.get("lr"))
    if "lr" not in recipe.takes or isinstance(lr, Tensor) or not (always or "lr" in options):
        return dict(options)
    return {**options, "lr": 0.125}


def _shapes(ndim: int) -> list[tuple[int, ...]]:
    """Shapes of enough numbers for the vectors of any processor, with and without some left over."""
    if ndim < 2:
        return [(320,), (301,)] if ndim else [()]
    return [(20, 16, *[1] * (ndim - 2)), (43, 7, *[1] * (ndim - 2))]


@contextmanager
def quietly(kinds: Sequence[Kind]) -> Iterator[None]:
    """A trial shall be seen by nobody: no warnings, no numbers drawn, no mode of the caller's."""
    devices = {kind.device for kind in kinds if kind.device.type != "cpu"}
    with warnings.catch_warnings(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        with _own_numbers(sorted(devices, key=str)):
            yield


@contextmanager
def _own_numbers(devices: Sequence[torch.device]) -> Iterator[None]:
    """Leave the random numbers of accelerators as they are."""
    held = []
    for device in devices:
        module: Any = getattr(torch, device.type, None)
        if hasattr(module, "get_rng_state"):
            of = () if device.type == "mps" else (device,)  # of which a machine has one
            held.append((module, module.get_rng_state(*of), of))
    try:
        yield
    finally:
        for module, state, of in held:
            module.set_rng_state(state, *of)


def _stand_in(kind: Kind, shape: Sequence[int]) -> Tensor:
    if kind.form == "dense":
        tensor = torch.empty(*shape[::-1], dtype=kind.dtype, device=kind.device).permute(*reversed(range(kind.ndim)))
    elif kind.form == "strided":
        tensor = torch.empty(*shape, 2, dtype=kind.dtype, device=kind.device)[..., 0]
    else:
        tensor = torch.empty(shape, dtype=kind.dtype, device=kind.device)
    tensor.copy_(waves(shape, kind, 0.7))
    param = nn.Parameter(_spread(tensor, kind))
    if kind.grad_dtype != kind.dtype:
        setattr(param, "grad_dtype", kind.grad_dtype)  # noqa: B010  # older versions of torch do not have it
    return param


def _gradient(param: Tensor, kind: Kind, step: int) -> Tensor:
    """A gradient laid out as autograd lays it out: as the parameter is, where that has no gaps."""
    numbers = waves(param.shape, kind, 1.1 + step).to(kind.grad_dtype)
    if kind.sparse:
        return numbers.to_sparse(1) if kind.ndim else numbers
    if kind.mesh is not None:
        return _spread(numbers, kind)
    return torch.empty_like(param, dtype=kind.grad_dtype).copy_(numbers)


def waves(shape: Sequence[int], kind: Kind, pace: float) -> Tensor:
    """Numbers between 0.1 and 0.5 of either sign, far from what underflows in half precision.

    Args:
        shape: Shape of the tensor.
        kind: Its device and dtype.
        pace: How fast they change along it; other numbers for another pace.
    """
    angles = torch.arange(math.prod(shape), dtype=torch.float32, device="cpu") * pace + 0.3
    values = 0.3 * angles.cos().sign() + 0.2 * (7 * angles).sin()
    return values.to(kind.dtype).to(kind.device).reshape(tuple(shape))


def _spread(tensor: Tensor, kind: Kind) -> Tensor:
    """A copy on each of the devices of a mesh, for which nothing has to be sent."""
    if kind.mesh is None:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    placements = [Replicate()] * kind.mesh.ndim
    return DTensor.from_local(tensor, kind.mesh, placements, run_check=False)


def in_words(error: Exception) -> str:
    """What an error says, in one line."""
    return textwrap.shorten(str(error), 120, placeholder=" ...") or type(error).__name__
