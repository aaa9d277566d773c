"""Which implementation of an optimiser is the fastest that is right here, found out by trying.

Torch's optimisers come as a loop over tensors, as operations on all tensors at once (``foreach``) and as one kernel
(``fused``). Which of them a class has, and on which devices, dtypes and options, differs between versions of torch.
No table of that is kept: each is tried on small stand-ins, and has to give the numbers of the loop. Not all of them do:
torch 2.13's fused SGD goes wrong on the CPU in half precision, and so do all its fused kernels there on tensors with gaps.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_solver.errors import SolverError
from lightning_solver.optimizers.recipe import Recipe
from lightning_solver.optimizers.unhooked import unhooked_step
from lightning_solver.plain import FrozenDict

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SWITCHES = ("fused", "foreach")
SMALL = 4096
"""Numbers per tensor up to which all at once beat the loop on the CPU, where torch's foreach operations are loops too.

Measured with Adam, NAdam, RMSprop and SGD on one thread: 1.3 to 1.7 times faster at 32 x 32 and 64 x 64, 0.7 times at
128 x 128, as every operation then goes through memory anew. It also needs as much memory again as the parameters do.
"""


@dataclass(frozen=True)
class Implementation:
    """How an optimiser does its arithmetic.

    Args:
        name: ``fused``, ``foreach``, ``loop``, or ``own`` if the class offers no choice.
        why: The reason, in words.
        args: Arguments to add when the optimiser is built.
    """

    name: str
    why: str
    args: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


@dataclass(frozen=True)
class _Kind:
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
    kinds = _kinds(tensors, {id(tensor) for tensor in sparse})
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


def _kinds(tensors: Sequence[Tensor], sparse: Collection[int]) -> list[_Kind]:
    """The different kinds among tensors, in one pass."""
    kinds: dict[_Kind, None] = {}
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
        kinds[_Kind(tensor.device, tensor.dtype, grad_dtype, tensor.ndim, form, is_sparse, mesh)] = None
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


def _fastest(
    recipe: Recipe, kinds: Sequence[_Kind], changed: Sequence[Mapping[str, Any]], tensors: Sequence[Tensor]
) -> Implementation:
    loop = {"foreach": False} if "foreach" in recipe.takes else {"fused": False}
    if not kinds or any(kind.form == "foreign" for kind in kinds):
        names = sorted({type(tensor).__name__ for tensor in tensors})
        return Implementation("loop", f"parameters of class {', '.join(names)}", FrozenDict(loop))
    groups = _representatives(changed)
    try:
        right = _tried(recipe, kinds, groups, loop)
    except Exception as error:  # what the class may raise; it will say so again in the first step
        return Implementation("loop", f"a step could not be tried: {_words(error)}", FrozenDict(loop))
    refusals = []
    for switch in SWITCHES:
        if switch not in recipe.takes:
            refusals.append(f"{recipe.cls.__name__} has no {switch} implementation")
            continue
        if switch == "foreach" and (slow := _why_slow(kinds, tensors)):
            refusals.append(slow)
            continue
        try:
            found = _tried(recipe, kinds, groups, {switch: True})
        except Exception as error:
            refusals.append(f"{switch} refuses: {_words(error)}")
            continue
        if all(map(_agree, found, right)):
            where = ", ".join(sorted({_place(kind) for kind in kinds}))
            return Implementation(switch, "; ".join([f"tried on {where}", *refusals]), FrozenDict({switch: True}))
        refusals.append(f"{switch} gives other numbers than the loop")
    return Implementation("loop", "; ".join(refusals), FrozenDict(loop))


def _why_slow(kinds: Sequence[_Kind], tensors: Sequence[Tensor]) -> str | None:
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


def _tried(
    recipe: Recipe, kinds: Sequence[_Kind], groups: Sequence[Mapping[str, Any]], switch: Mapping[str, Any]
) -> list[Tensor]:
    """Stand-ins for parameters of every kind in every group after two steps."""
    sizes = [(kind, shape) for kind in kinds for shape in _shapes(kind.ndim)]
    made = [[_stand_in(kind, shape) for kind, shape in sizes] for _ in groups]
    taken = [{"params": params, **_striding(group, recipe)} for params, group in zip(made, groups)]
    with _quietly(kinds):
        optimizer = recipe.cls(taken, **{**_striding(recipe.args, recipe, always=True), **switch})
        for step in range(2):
            for params in made:
                for param, (kind, _) in zip(params, sizes):
                    param.grad = _gradient(param, kind, step)
            unhooked_step(recipe.cls)(optimizer)
    return [param.detach() for params in made for param in params]


def _striding(options: Mapping[str, Any], recipe: Recipe, *, always: bool = False) -> dict[str, Any]:
    """Options with a learning rate whose steps are not lost in the rounding of the stand-ins."""
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
def _quietly(kinds: Sequence[_Kind]) -> Iterator[None]:
    """A trial shall be seen by nobody: no warnings, no numbers drawn, no mode of the caller's."""
    devices = {kind.device for kind in kinds if kind.device.type != "cpu"}
    with warnings.catch_warnings(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        with _own_numbers(sorted(devices, key=str)):
            yield


@contextmanager
def _own_numbers(devices: Sequence[torch.device]) -> Iterator[None]:
    """Leave the random numbers of accelerators as they are."""
    modules = [(getattr(torch, device.type, None), device) for device in devices]
    held = [(module, device, module.get_rng_state(device)) for module, device in modules if module is not None]
    try:
        yield
    finally:
        for module, device, state in held:
            module.set_rng_state(state, device)


def _stand_in(kind: _Kind, shape: Sequence[int]) -> Tensor:
    if kind.form == "dense":
        tensor = torch.empty(*shape[::-1], dtype=kind.dtype, device=kind.device).permute(*reversed(range(kind.ndim)))
    elif kind.form == "strided":
        tensor = torch.empty(*shape, 2, dtype=kind.dtype, device=kind.device)[..., 0]
    else:
        tensor = torch.empty(shape, dtype=kind.dtype, device=kind.device)
    tensor.copy_(_waves(shape, kind, 0.7))
    param = nn.Parameter(_spread(tensor, kind))
    if kind.grad_dtype != kind.dtype:
        param.grad_dtype = kind.grad_dtype  # type: ignore[attr-defined]
    return param


def _gradient(param: Tensor, kind: _Kind, step: int) -> Tensor:
    """A gradient laid out as autograd lays it out: as the parameter is, where that has no gaps."""
    numbers = _waves(param.shape, kind, 1.1 + step).to(kind.grad_dtype)
    if kind.sparse:
        return numbers.to_sparse(1) if kind.ndim else numbers
    if kind.mesh is not None:
        return _spread(numbers, kind)
    return torch.empty_like(param, dtype=kind.grad_dtype).copy_(numbers)


def _waves(shape: Sequence[int], kind: _Kind, pace: float) -> Tensor:
    """Numbers between 0.1 and 0.5 of either sign, far from what underflows in half precision."""
    angles = torch.arange(math.prod(shape), dtype=torch.float32, device="cpu") * pace + 0.3
    values = 0.3 * angles.cos().sign() + 0.2 * (7 * angles).sin()
    return values.to(kind.dtype).to(kind.device).reshape(tuple(shape))


def _spread(tensor: Tensor, kind: _Kind) -> Tensor:
    """A copy on each of the devices of a mesh, for which nothing has to be sent."""
    if kind.mesh is None:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    placements = [Replicate()] * kind.mesh.ndim
    return DTensor.from_local(tensor, kind.mesh, placements, run_check=False)


def _agree(a: Tensor, b: Tensor) -> bool:
    if hasattr(a, "to_local"):
        a, b = a.to_local(), b.to_local()  # type: ignore[attr-defined]
    eps = torch.finfo(a.dtype).eps
    allowed = (64 if eps < 1e-4 else 8) * eps * float(b.abs().max())
    return bool((a - b).abs().max() <= allowed)  # which no NaN is


def _place(kind: _Kind) -> str:
    dtype = str(kind.dtype).removeprefix("torch.")
    parts = [f"{kind.device.type} {dtype}"]
    parts += ["with gaps"] if kind.form == "strided" else []
    parts += ["sharded"] if kind.mesh is not None else []
    parts += ["with sparse gradients"] if kind.sparse else []
    return " ".join(parts)


def _words(error: Exception) -> str:
    return textwrap.shorten(str(error), 120, placeholder=" ...") or type(error).__name__


def sparse_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters that get sparse gradients: weights of embeddings made with ``sparse=True``.

    Args:
        module: The module that is trained.
    """
    return [
        inner.weight
        for inner in module.modules()
        if isinstance(inner, (nn.Embedding, nn.EmbeddingBag)) and inner.sparse
    ]


def refuse_sharded(recipe: Recipe, tensors: Sequence[Tensor], where: str = "optimizer") -> None:
    """Make sure that an optimiser gives sharded parameters the step that it gives whole ones.

    Each way of sharding that is met is tried on a small matrix, on all processes of its mesh at once: an optimiser such
    as Muon works on whole matrices, and not every operation of torch can put one together from its shards. To be called
    by all processes alike. Does nothing where no parameter is a DTensor.

    Args:
        recipe: The optimiser.
        tensors: The parameters.
        where: Path for the error message.

    Raises:
        SolverError: Its step fails, or gives other numbers than on a whole parameter.
    """
    if not torch.distributed.is_available():
        return
    from torch.distributed.tensor import DTensor, distribute_tensor

    ways: dict[Any, DTensor] = {}
    for tensor in tensors:
        if type(tensor) is not nn.Parameter and isinstance(tensor, DTensor):
            ways.setdefault((tensor.device_mesh, tensor.placements, tensor.dtype, tensor.ndim), tensor)
    for (mesh, placements, dtype, ndim), tensor in ways.items():
        kind = _Kind(tensor.device, dtype, dtype, ndim, "contiguous")
        shape = [2 * mesh.size() + i for i in range(ndim)]
        values, slopes = _waves(shape, kind, 0.7), _waves(shape, kind, 1.1)
        whole = nn.Parameter(values.clone())
        whole.grad = slopes.clone()
        name = f"{recipe.cls.__name__} cannot step over parameters that are sharded as {_spelled(placements)}"
        do = "use another optimiser for them, or train by DDP, which keeps them whole"
        with _quietly([kind]):
            _one_step(recipe, whole)
            shard = nn.Parameter(distribute_tensor(values.clone(), mesh, placements))
            shard.grad = distribute_tensor(slopes.clone(), mesh, placements)
            try:
                _one_step(recipe, shard)
            except Exception as error:  # whatever an operation without a rule for shards raises
                raise SolverError(where, name, got=_words(error), do=do) from error
            got = shard.detach().full_tensor() - values  # type: ignore[attr-defined]
        wanted = whole.detach() - values
        # Sums over shards round in another order, also where the class itself works in bfloat16.
        if float((got - wanted).abs().max()) > 0.05 * float(wanted.abs().max()):
            off = float((got - wanted).abs().max() / wanted.abs().max())
            raise SolverError(where, name, got=f"an update that is off by {off:.0%}", do=do)


def _one_step(recipe: Recipe, param: Tensor) -> None:
    optimizer = recipe.cls([param], **recipe.args)
    unhooked_step(recipe.cls)(optimizer)


def _spelled(placements: Sequence[Any]) -> str:
    return ", ".join(str(placement) for placement in placements)


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
