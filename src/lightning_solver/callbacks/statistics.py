"""Batch-norm statistics of the weights that a module holds now, estimated on the training data of a Trainer."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from math import inf, isfinite
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_solver.averaging.batch_norm import _Caller, estimate_statistics, norm_layers
from lightning_solver.callbacks.random_state import random_state, set_random_state
from lightning_solver.errors import SolverError

_WHERE = "update_bn"
_AT_END = "estimate the statistics at the end of training, with update_bn.at: end"


def estimate_on_train_data(trainer: Trainer, module: LightningModule, batches: int | None, *, title: str) -> int:
    """Estimate the batch-norm statistics of a module anew, for the weights that it holds, on the training data.

    Batches come from the training loader and reach the device as they do in training, the module's hooks for that
    included; ``trainer.training`` is true meanwhile. The module is run by its method ``batch_norm_step(batch)`` if it
    has one, which must not log; by its ``forward`` otherwise, with the batch, its first element where it is a tuple or
    a list, or its entries by name where it is a mapping. Layers that are frozen in training, in evaluation mode, keep
    their statistics. Over several processes the statistics are those of all together, and each makes as many forwards.

    Training goes on as if nothing had happened: with its random numbers (Python's, numpy's and torch's, and those of
    generators of the loader, its samplers and its data set), modes and momenta.

    Args:
        trainer: The Trainer, in ``fit``.
        module: Its module.
        batches: At most so many batches on each process; all of an epoch where it is ``None``.
        title: What the progress bar says; it is shown if the Trainer has one.

    Returns:
        The number of batches of this process; 0 for a module that has no statistics to estimate.

    Raises:
        SolverError: The module cannot be run on a batch; or its loader cannot be run through in mid-run.
    """
    frozen = _frozen(trainer, module)
    if {id(layer) for layer in norm_layers(module)} <= {id(layer) for layer in frozen}:
        return 0
    step = _step(module)
    loader = _loader(trainer)
    if trainer.validating:
        _refuse_one_pass(loader, trainer.is_last_batch)
    with undisturbed_random_numbers(*loader.flattened), _as_in_training(trainer):
        chosen, number = _chosen(trainer, loader, inf if batches is None else batches)
        with _bar(trainer, title, number) as progress:

            def run(batch: Any) -> None:
                with trainer.precision_plugin.forward_context():
                    step(batch)

            return estimate_statistics(
                module,
                (_moved(trainer, module, batch) for batch in chosen),
                forward=run,
                reduce=_mean(trainer) if trainer.world_size > 1 else None,
                progress=progress,
                frozen=frozen,
            )


@contextmanager
def undisturbed_random_numbers(*loaders: Any) -> Iterator[None]:
    """Whatever draws random numbers meanwhile leaves no trace in those that are drawn afterwards.

    Args:
        *loaders: Loaders whose own generators are restored too, with those of their samplers and data sets.
    """
    own = [_held(generator) for generator in _generators(loaders)]
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
        for restore in own:
            restore()


def _generators(loaders: tuple[Any, ...]) -> list[Any]:
    """The random-number generators that loaders have themselves, each once."""
    found: dict[int, Any] = {}
    for loader in loaders:
        batch_sampler = getattr(loader, "batch_sampler", None)
        parts = (loader, batch_sampler, *(getattr(holder, "sampler", None) for holder in (loader, batch_sampler)))
        for holder in (*parts, getattr(loader, "dataset", None)):
            for value in getattr(holder, "__dict__", {}).values():
                if isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
                    found[id(value)] = value
    return list(found.values())


def _held(generator: Any) -> Callable[[], None]:
    """Gives a generator the state back that it has now."""
    if isinstance(generator, random.Random):
        state = generator.getstate()
        return lambda: generator.setstate(state)
    if isinstance(generator, np.random.Generator):
        held = copy.deepcopy(generator.bit_generator.state)

        def restore() -> None:
            generator.bit_generator.state = held

        return restore
    kept = generator.get_state()
    return lambda: generator.set_state(kept)


def _frozen(trainer: Trainer, module: LightningModule) -> list[nn.Module]:
    """The layers that are in evaluation mode while the module is trained."""
    if trainer.validating:
        # The module is in evaluation mode already; Lightning has noted the modes of training, and offers no other way.
        modes = trainer.fit_loop.epoch_loop.val_loop._module_mode.mode
    else:
        modes = {name: inner.training for name, inner in module.named_modules()}
    if not modes.get("", True):
        return []
    return [inner for name, inner in module.named_modules() if not modes.get(name, True)]


def _step(module: LightningModule) -> Callable[[Any], object]:
    """Runs the module on a batch."""
    own = getattr(module, "batch_norm_step", None)
    if callable(own):
        step: Callable[[Any], object] = own
        return step
    do = "define batch_norm_step(self, batch), which runs the layers that have statistics on a batch"
    if not is_overridden("forward", module):
        what = "the module has no forward that could be run on the training data"
        raise SolverError(_WHERE, what, got=type(module).__name__, do=do)
    call = _Caller(module)

    def step_of_forward(batch: Any) -> None:
        try:
            call(batch)
        except SolverError as error:
            raise SolverError(_WHERE, error.what, got=error.got, do=do) from None

    return step_of_forward


def _loader(trainer: Trainer) -> CombinedLoader:
    """The training loaders, as they are put together in training; to be run through once more."""
    # Lightning's own loader is in the middle of an epoch, and its mode is nowhere else.
    running = trainer.fit_loop._combined_loader
    if running is None:
        raise SolverError(_WHERE, "there is no training data", do="call it in fit, with a train_dataloader")
    loader = CombinedLoader(running.iterables, running._mode)
    loader.limits = running.limits
    return loader


def _refuse_one_pass(loader: CombinedLoader, last: bool) -> None:
    """Refuse loaders that cannot be run through without disturbing the epoch that is running."""
    for one in loader.flattened:
        data = getattr(one, "dataset", None)
        if hasattr(one, "state_dict") and hasattr(one, "load_state_dict"):
            what = "the training loader is stateful: running through it would lose its place"
        elif isinstance(one, Iterator) or (isinstance(data, Iterator) and not getattr(one, "num_workers", 0)):
            what = "the training data are an iterator: running through them would use them up"
        elif getattr(one, "persistent_workers", False) and not last:
            what = "the training loader has persistent workers, which are in the middle of an epoch"
        else:
            continue
        raise SolverError(_WHERE, what, got=type(one).__name__, do=_AT_END)


@contextmanager
def _as_in_training(trainer: Trainer) -> Iterator[None]:
    """Hooks see a Trainer that is training."""
    stage = trainer.state.stage
    trainer.training = True
    try:
        yield
    finally:
        trainer.state.stage = stage


def _chosen(trainer: Trainer, loader: CombinedLoader, most: float) -> tuple[Iterator[Any], int | None]:
    """The first batches of an epoch, equally many on each process, and how many where that is known."""
    batches = (batch for batch, _, _ in iter(loader))
    most = min(most, trainer.num_training_batches)
    if trainer.world_size > 1:
        if not trainer.strategy.reduce_boolean_decision(isfinite(most)):
            return _while_all_have_one(trainer, batches, most), None
        fewest: Any = trainer.strategy.reduce(
            torch.tensor(int(most), device=trainer.strategy.root_device), reduce_op="min"
        )
        most = int(fewest)
    return (islice(batches, int(most)), int(most)) if isfinite(most) else (batches, None)


def _while_all_have_one(trainer: Trainer, batches: Iterator[Any], most: float) -> Iterator[Any]:
    """Batches until one of the processes has no more of them."""
    for number, batch in enumerate(batches):
        if not trainer.strategy.reduce_boolean_decision(number < most):
            return
        yield batch
    trainer.strategy.reduce_boolean_decision(False)


def _moved(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """A batch on its device, by the same calls as in Lightning's loop, which has no public name for the second."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def _mean(trainer: Trainer) -> Callable[[Tensor], Tensor]:
    """The mean of a tensor over all processes."""

    def mean(tensor: Tensor) -> Tensor:
        reduced: Any = trainer.strategy.reduce(tensor.clone(), reduce_op="mean")  # it may write into what it is given
        return reduced  # type: ignore[no-any-return]

    return mean


@contextmanager
def _bar(trainer: Trainer, title: str, number: int | None) -> Iterator[Callable[[int], object]]:
    """Counts batches, in a progress bar if the Trainer has one."""
    shown = trainer.progress_bar_callback
    hidden = not getattr(shown, "is_enabled", shown is not None) or not trainer.is_global_zero
    with tqdm(desc=f"{title}: batch norm", total=number, disable=hidden, leave=False, dynamic_ncols=True) as bar:
        yield lambda seen: bar.update(seen - bar.n)
