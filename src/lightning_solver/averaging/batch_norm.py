"""Running statistics of batch norms, estimated anew for weights that no training step has seen, such as averages."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_solver.errors import SolverError

_WHERE = "estimate_statistics"


def estimate_statistics(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[Any], object] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int], object] | None = None,
    frozen: Collection[nn.Module] = (),
) -> int:
    """Estimate the running mean and variance of every batch norm anew, from batches that the module is run on.

    Afterwards they are the means, over the batches, of each batch's mean and variance: the same numbers, bit by bit, as
    those of ``torch.optim.swa_utils.update_bn``. Every batch counts the same, so a short last one had better be
    dropped. For precise statistics over n batches (Wu and Johnson, 2021), pass the first n. Instance norms that track
    statistics are included.

    Meanwhile the module is in training mode, so that dropout acts as it does in training, without gradients, and what
    was compiled runs uncompiled. Modes and momenta are restored whatever happens; the statistics too, if they could not
    be estimated to the end. The memory needed is that of the statistics, however many batches there are.

    Statistics stay as they are in layers that are frozen: those that are passed as such, those in evaluation mode in a
    module that is in training mode, and those that the module's own ``train()`` leaves in evaluation mode. They stay,
    too, in layers that no batch reaches. A module in which no layer is left looks at no batch.

    Under several processes each runs the module on batches of its own. Where parameters are sharded (FSDP2), and with
    ``SyncBatchNorm``, every process has to pass equally many batches, as each forward is a joint one. With ``reduce``
    the statistics are then those of all processes together.

    Args:
        module: The module itself; not ``DistributedDataParallel``, which overwrites statistics before each forward.
        batches: Batches of training data, where the module is. They are looked at once.
        forward: Called with each batch, to run the module on it. By default the module is called with the batch; with
            its first element where it is a tuple or a list; with its entries by name where it is a mapping.
        reduce: Gives the mean of a tensor over all processes; called three times by each. Without it, the statistics
            are those of this process.
        progress: Called after each batch, with the number of batches so far.
        frozen: Layers, or modules with layers, whose statistics stay as they are.

    Returns:
        The number of batches.

    Raises:
        SolverError: There is no batch, or the module cannot be called with a batch in that way.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> estimate_statistics(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [9.0]])])
        2
        >>> norm.running_mean, norm.running_var
        (tensor([4.5000]), tensor([5.]))
    """
    if isinstance(module, nn.parallel.DistributedDataParallel):
        do = "pass the module that it wraps, module.module"
        raise SolverError(_WHERE, "the wrapper overwrites the statistics", got="DistributedDataParallel", do=do)
    held = {id(inner) for layer in frozen for inner in layer.modules()}
    held |= {id(layer) for layer in norm_layers(module) if module.training and not layer.training}
    run = forward if forward is not None else Caller(module)
    seen = 0
    with torch.inference_mode(False), torch.no_grad(), _training_mode(module, held), _uncompiled():
        layers = [layer for layer in norm_layers(module) if layer.training]
        if not layers:
            return 0
        with _estimated(layers) as calls:
            for batch in batches:
                run(batch)
                seen += 1
                if progress is not None:
                    progress(seen)
            if seen == 0:
                do = "pass at least one, or leave the statistics as they are"
                raise SolverError(_WHERE, "there are no batches to estimate the statistics from", do=do)
            if reduce is not None:
                _reduce(layers, calls, reduce)
    return seen


def norm_layers(module: nn.Module) -> list[_NormBase]:
    """The layers of a module that have running statistics: batch norms, and instance norms that track them."""
    return [inner for inner in module.modules() if isinstance(inner, _NormBase) and inner.running_mean is not None]


class Caller:
    """Calls a module with a batch in the way that its type suggests."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._signature = inspect.signature(module.forward)

    def __call__(self, batch: Any) -> None:
        args, kwargs = _arguments(batch)
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            got = f"{_shape_of(batch)} for {type(self._module).__name__}.forward{self._signature}: {error}"
            raise SolverError(_WHERE, "the module cannot be called with a batch", got=got, do=_DO) from None
        self._module(*args, **kwargs)


_DO = "pass forward, a function that runs the module on a batch"


def _arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a batch stands for."""
    if isinstance(batch, Mapping):
        return (), {str(name): value for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        if not batch or (isinstance(batch, list) and isinstance(batch[0], Mapping)):
            what = "does not say what the module is called with"
            raise SolverError(_WHERE, f"a batch {what}", got=_shape_of(batch), do=_DO)
        return (batch[0],), {}
    return (batch,), {}


def _shape_of(batch: Any) -> str:
    """A batch in a few words."""
    if isinstance(batch, Mapping):
        return f"entries {', '.join(map(str, batch)) or 'none'}"
    if isinstance(batch, (list, tuple)):
        first = f", the first of type {type(batch[0]).__name__}" if batch else ""
        return f"a {type(batch).__name__} of {len(batch)}{first}"
    return f"a {type(batch).__name__}"


@contextmanager
def _training_mode(module: nn.Module, held: set[int]) -> Iterator[None]:
    """The module is in training mode for a while, but for some layers in it."""
    modes = [(inner, inner.training) for inner in module.modules()]
    try:
        module.train()
        for inner, _ in modes:
            if id(inner) in held:
                inner.training = False
        yield
    finally:
        for inner, mode in modes:
            inner.training = mode


def _uncompiled() -> AbstractContextManager[object]:
    """Whatever was compiled runs as it is written: a compiled graph has its momentum in it, and no hooks."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def _estimated(layers: Sequence[_NormBase]) -> Iterator[list[int]]:
    """Statistics are means over all that layers see; as they were if something goes wrong, or where nothing is seen.

    The momentum of each call is one over the number of calls so far. A momentum of ``None`` means that too, but waits
    for the device at every call, and means none at all in instance norms.
    """
    calls = [0] * len(layers)
    momenta = [layer.momentum for layer in layers]
    before = [[buffer.clone() for buffer in _statistics(layer)] for layer in layers]
    hooks = []

    def counts(index: int) -> Callable[[nn.Module, Any], None]:
        def hook(_layer: nn.Module, _inputs: Any) -> None:
            calls[index] += 1
            layers[index].momentum = 1.0 / calls[index]

        return hook

    def restore(index: int) -> None:
        for buffer, old in zip(_statistics(layers[index]), before[index]):
            buffer.copy_(old)

    try:
        for index, layer in enumerate(layers):
            hooks.append(layer.register_forward_pre_hook(counts(index)))
            layer.reset_running_stats()
        yield calls
    except BaseException:
        for index in range(len(layers)):
            restore(index)
        raise
    else:
        for index, number in enumerate(calls):
            if number == 0:
                restore(index)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum


def _statistics(layer: _NormBase) -> list[Tensor]:
    """The buffers of a layer that training moves."""
    return [b for b in (layer.running_mean, layer.running_var, layer.num_batches_tracked) if b is not None]


def _reduce(layers: Sequence[_NormBase], calls: list[int], reduce: Callable[[Tensor], Tensor]) -> None:
    """Make the statistics those of all processes; each counts as often as its layer was called.

    The variance of everything is the mean of the variances and of the squared distances of the means from their own.
    """
    device = _means(layers[0]).device
    sizes = torch.tensor([_means(layer).numel() for layer in layers], device=device)
    mean, variance = (
        torch.cat([get(layer).to(device, torch.float64) for layer in layers]) for get in (_means, _variances)
    )
    numbers = torch.tensor(calls, dtype=torch.float64, device=device)
    everywhere = reduce(numbers)
    weight = torch.where(everywhere > 0, numbers / everywhere, 0.0).repeat_interleave(sizes)
    overall = reduce(weight * mean)
    spread = reduce(weight * (variance + (mean - overall).square()))
    reached = (everywhere > 0).tolist()
    parts = torch.split(torch.stack([overall, spread]), sizes.tolist(), dim=1)
    for index, (layer, (means, variances)) in enumerate(zip(layers, parts)):
        calls[index] = max(calls[index], int(reached[index]))  # reached by another process is reached
        _means(layer).copy_(means)
        _variances(layer).copy_(variances)


def _means(layer: _NormBase) -> Tensor:
    assert layer.running_mean is not None
    return layer.running_mean


def _variances(layer: _NormBase) -> Tensor:
    assert layer.running_var is not None
    return layer.running_var
