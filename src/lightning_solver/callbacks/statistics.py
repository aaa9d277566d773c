"""Batch-norm statistics of the weights that a module holds now, estimated on the training data of a Trainer."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from math import inf, isfinite
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_solver.averaging.batch_norm import Caller, estimate_statistics, norm_layers
from lightning_solver.callbacks.random_state import random_state, set_random_state
from lightning_solver.errors import SolverError

_WHERE = "update_bn"


def estimate_on_train_data(trainer: Trainer, module: LightningModule, batches: int | None, *, title: str) -> int:
    """Estimate the batch-norm statistics of a module anew, for the weights that it holds, on the training data.

    Batches come from the training loader and reach the device as they do in training, the module's hooks for that
    included; ``trainer.training`` is true meanwhile. The module is run by its method ``batch_norm_step(batch)`` if it
    has one; by its ``forward`` otherwise, with the batch, its first element where it is a tuple or a list, or its
    entries by name where it is a mapping. What it logs then is dropped. Layers that are in evaluation mode in training
    keep their statistics. Over several processes the statistics are those of all together, and each makes as many
    forwards.

    Training goes on as if nothing had happened: with its random numbers (Python's, numpy's and torch's, and those of
    generators of the loader, its samplers and its data set), modes and momenta.

    Args:
        trainer: The Trainer, in ``fit``.
        module: Its module.
        batches: At most so many batches on each process; all of an epoch where it is ``None``.
        title: What the progress bar begins with; it is shown if the Trainer has one.

    Returns:
        The number of batches of this process; 0 for a module that has no statistics to estimate.

    Raises:
        SolverError: The module cannot be run on a batch; or its loader cannot be run through in mid-run.
    """
    frozen = _frozen(trainer, module)
    if {id(layer) for layer in norm_layers(module)} <= {id(layer) for layer in frozen}:
        return 0
    step = step_of(module)
    loader = _loader(trainer)

    def run(batch: Any) -> None:
        with trainer.precision_plugin.forward_context():
            step(batch)

    with undisturbed_random_numbers(*loader.flattened), _as_in_training(trainer, module):
        chosen, number = _chosen(trainer, loader, batches)
        with _bar(trainer, title, number) as progress:
            return estimate_statistics(
                module,
                (_moved(trainer, module, batch) for batch in chosen if batch is not None),
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
    layers = {id(layer) for layer in norm_layers(module)}
    return [inner for name, inner in module.named_modules() if id(inner) in layers and not modes.get(name, True)]


def step_of(module: LightningModule) -> Callable[[Any], object]:
    """Runs the module on a batch."""
    own = getattr(module, "batch_norm_step", None)
    if callable(own):
        step: Callable[[Any], object] = own
        return step
    do = "define batch_norm_step(self, batch), which runs the layers that have statistics on a batch"
    if not is_overridden("forward", module):
        what = "the module has no forward that could be run on the training data"
        raise SolverError(_WHERE, what, got=type(module).__name__, do=do)
    call = Caller(module)

    def step_of_forward(batch: Any) -> None:
        try:
            call(batch)
        except SolverError as error:
            raise SolverError(_WHERE, error.what, got=error.got, do=do) from None

    return step_of_forward


def _loader(trainer: Trainer) -> CombinedLoader:
    """The training loaders, put together as they are in training; to be run through once more."""
    # Lightning's own is in the middle of an epoch, and its mode is nowhere else.
    running = trainer.fit_loop._combined_loader
    if running is None:
        raise SolverError(_WHERE, "there is no training data", do="call it in fit, with a train_dataloader")
    loader = CombinedLoader(running.iterables, running._mode)
    if trainer.validating:
        loader.flattened = [_apart(one) for one in loader.flattened]
    return loader


def _apart(loader: Any) -> Any:
    """A loader that can be run through while an epoch of its own is running.

    Raises:
        SolverError: That would upset the epoch.
    """
    if isinstance(loader, DataLoader) and loader.persistent_workers and not _is_stateful(loader):
        loader = copy.copy(loader)
        loader._iterator = None  # where torch keeps the workers; the copy gets its own, and ends them
        return loader
    data = getattr(loader, "dataset", None)
    if _is_stateful(loader):
        what = "the training loader is stateful, and would lose its place"
    elif isinstance(loader, Iterator) or (isinstance(data, Iterator) and not getattr(loader, "num_workers", 0)):
        what = "the training data are an iterator, and would be used up"
    else:
        return loader
    do = "estimate the statistics once, at the end of training (update_bn.at: end), or give the run another loader"
    raise SolverError(_WHERE, what, got=type(loader).__name__, do=do)


def _is_stateful(loader: Any) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


@contextmanager
def _as_in_training(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Hooks see a Trainer that is training, but nothing is logged."""
    stage, own = trainer.state.stage, {key: value for key, value in vars(module).items() if key == "log"}
    trainer.training = True
    vars(module)["log"] = _log_nothing
    try:
        yield
    finally:
        trainer.state.stage = stage
        vars(module).pop("log", None)
        vars(module).update(own)


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """In the place of ``log``."""


def _chosen(trainer: Trainer, loader: CombinedLoader, most: int | None) -> tuple[Iterator[Any], int | None]:
    """The first batches of an epoch, equally many on each process, and how many they are if that is known."""
    limit = min(inf if most is None else most, trainer.num_training_batches)
    number = int(limit) if isfinite(limit) else None
    batches = islice((batch for batch, _, _ in iter(loader)), number)
    if trainer.world_size == 1:
        return batches, number
    sized = number is not None and all(_is_sized(one) for one in loader.flattened)
    if not trainer.strategy.reduce_boolean_decision(sized):
        return _while_all_have_one(trainer, batches), number
    fewest: Any = trainer.strategy.reduce(torch.tensor(number, device=trainer.strategy.root_device), reduce_op="min")
    return islice(batches, int(fewest)), int(fewest)


def _is_sized(loader: Any) -> bool:
    """Whether a loader can be relied on for its length."""
    return sized_len(loader) is not None and not isinstance(getattr(loader, "dataset", None), IterableDataset)


def _while_all_have_one(trainer: Trainer, batches: Iterator[Any]) -> Iterator[Any]:
    """Batches until one of the processes has no more of them."""
    for batch in batches:
        if not trainer.strategy.reduce_boolean_decision(True):
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
    settings: dict[str, Any] = {"disable": hidden, "leave": False, "dynamic_ncols": True, "file": sys.stdout}
    with tqdm(desc=f"{title}: batch norm", total=number, **settings) as bar:
        yield lambda seen: bar.update(seen - bar.n)
