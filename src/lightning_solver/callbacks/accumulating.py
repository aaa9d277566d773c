"""The hooks of every callback that accumulates gradients.

Lightning's loop steps after every ``accumulate_grad_batches`` batches, counted from the start of the epoch, divides
each loss by that number, and lets go of gradients only where a window of that length begins. Before each batch the
number is set so that it steps where a window of ours ends, and the losses are scaled to what the window really holds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.optim import Optimizer

from lightning_solver.accumulation import Accumulates, Accumulation, Windows
from lightning_solver.callbacks.order import arrange
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.logs import report
from lightning_solver.rules.inventory import own_name
from lightning_solver.run_length import accumulation_windows, samples_per_batch
from lightning_solver.sharding import like, local

_KEY = "lightning_solver_window"


@dataclass
class _Window:
    """The batches of one step.

    Args:
        begin: The first of them, by its number in the epoch (0-based).
        size: How many they were to be.
        end: The batch after the last one.
        expected: By how many batches the gradients are divided at first.
        held: How many batches have given gradients.
        weight: What these count, where batches do not count equally.
    """

    begin: int
    size: int
    end: int
    expected: int
    held: int = 0
    weight: Any = 0.0

    @property
    def aligned(self) -> bool:
        """Whether Lightning's own counting gives this window."""
        return self.begin % self.size == 0


class Accumulating(Accumulates, Callback):
    """Accumulates gradients as :meth:`accumulation` says; nothing is done where it says nothing.

    Raises:
        SolverError: Before the first step, beside another setting for accumulation, under manual optimisation, or with
            a strategy that accumulates by itself.
    """

    role = "accumulate"

    def __init__(self) -> None:
        self._how: Accumulation | None = None
        self._windows = Windows("st", (), ())
        self._window: _Window | None = None
        self._weigh: Callable[[Any], Any] | None = None
        self._batch: Any = None
        self._restored: dict[str, Any] | None = None

    @property
    def where(self) -> str:
        """The path of the setting, for error messages."""
        return "accumulate"

    @abstractmethod
    def accumulation(self, module: Any) -> Accumulation | None:
        """How it accumulates for a module; ``None`` if it does not."""

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Callbacks act in the order in which they have to."""
        trainer.callbacks = arrange(trainer.callbacks)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what would accumulate beside it."""
        self._how, self._window = self.accumulation(pl_module), None
        if self._how is not None:
            self._refuse(trainer, pl_module)
            self._weigh = _weigher(pl_module, self._how.weigh_by, self.where)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The windows of this run; one that a checkpoint was written in goes on."""
        if self._how is None:
            self._restored = None
            return
        self._windows = accumulation_windows(trainer, samples_per_batch(trainer))
        if self._windows.within_epochs and _batches(trainer) is None:
            do = "give points in whole epochs, or in steps"
            what = "a point within an epoch needs its length, which is not known"
            raise SolverError(self.where, what, got=str(self._how.batches), do=do)
        self._resume(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let the loop step after the last batch of a window, and nowhere else."""
        if self._how is None:
            return
        self._batch = batch if self._weigh is not None else None
        window = self._window
        if window is None or batch_idx >= window.end or batch_idx < window.begin:
            window = self._window = self._begin(trainer, batch_idx)
            if not window.aligned:
                for optimizer in trainer.optimizers:  # what Lightning does only where it would begin one
                    optimizer.zero_grad()
        if trainer.is_last_batch:  # which a loader without a length tells only now
            window.end = batch_idx + 1
        last = batch_idx == window.end - 1
        if window.aligned:
            trainer.accumulate_grad_batches = window.size
        else:
            trainer.accumulate_grad_batches = batch_idx + (1 if last else 2)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Scale the loss, which Lightning has divided by its number, to the window."""
        window = self._window
        if self._how is None or window is None:
            return
        factor: Any = 1.0
        if trainer.accumulate_grad_batches != window.expected:
            factor = trainer.accumulate_grad_batches / window.expected
        if self._weigh is not None:
            weight = self._weigh(self._batch)
            window.weight = window.weight + weight
            factor = factor * weight
        window.held += 1
        if isinstance(factor, Tensor) or factor != 1.0:
            loss.mul_(factor)  # recorded, so that the gradients are scaled

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The window is over: bring its gradients to the mean over what it really held."""
        window = self._window
        if self._how is None or window is None or window.held == 0:
            return
        factor: Any = None
        if self._weigh is not None:
            factor = _mean_factor(window, trainer, pl_module.device)
        elif window.held != window.expected:  # batches without a loss, or fewer than the loader seemed to have
            factor = torch.tensor(window.expected / window.held, device=pl_module.device)
        window.held, window.weight = 0, 0.0
        if factor is not None:
            _scale(optimizer, factor)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let go of what a batch needed."""
        self._batch = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The Trainer is left as it was found."""
        if self._how is not None:
            trainer.accumulate_grad_batches = 1

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As at the end of training."""
        self.on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say in which window it was written, with its gradients if that was asked for; a collective call then."""
        window = self._window
        if self._how is None or window is None or window.held == 0:
            return
        saved: dict[str, Any] = {"begin": window.begin, "size": window.size, "end": window.end, "held": window.held}
        if self._how.keep_gradients:
            own = {
                "weight": float(window.weight),
                "gradients": {
                    own_name(name): local(parameter.grad).cpu().clone()
                    for name, parameter in pl_module.named_parameters()
                    if parameter.grad is not None
                },
            }
            states: list[Any] = [own]
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                states = [None] * torch.distributed.get_world_size()
                torch.distributed.all_gather_object(states, own)
            saved |= {"expected": window.expected, "states": states}
        checkpoint[_KEY] = saved

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the window until training starts."""
        if trainer.state.fn == "fit":
            self._restored = checkpoint.get(_KEY)

    # ------------------------------------------------------------------ not for users

    def _begin(self, trainer: Trainer, batch_idx: int) -> _Window:
        batches = _batches(trainer)
        size = self._windows.size_at(trainer.global_step, trainer.current_epoch, batch_idx, batches)
        end = batch_idx + size
        if batches is not None:
            end = min(end, batches)
        return _Window(batch_idx, size, end, end - batch_idx)

    def _resume(self, trainer: Trainer, module: LightningModule) -> None:
        restored, self._restored = self._restored, None
        if restored is None:
            return
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        if not restored["begin"] < done < restored["end"]:
            return
        window = _Window(restored["begin"], restored["size"], restored["end"], restored["end"] - done)
        lost = f"the gradients of {restored['held']} of its {restored['end'] - restored['begin']} batches"
        rest = f"its next step is made of the other {window.expected}"
        states = restored.get("states")
        if states is None:
            report(f"the checkpoint was written in mid-window without {lost}: {rest}")
        elif len(states) != trainer.world_size:
            got = f"{len(states)} processes then, {trainer.world_size} now"
            report(f"the checkpoint was written in mid-window by another number of processes ({got}): {rest}")
        else:
            own = states[trainer.global_rank]
            _give_gradients(module, own["gradients"])
            window.expected, window.held = restored["expected"], restored["held"]
            window.weight = own["weight"]
        self._window = window

    def _refuse(self, trainer: Any, module: LightningModule) -> None:
        others = [one for one in trainer.callbacks if isinstance(one, Accumulates) and one is not self]
        for other in others:
            if other.accumulation(module) is not None:
                names = " and ".join(sorted({type(self).__name__, type(other).__name__}))
                do = "say it in the solver or by one callback"
                raise SolverError(self.where, "gradients are accumulated twice", got=names, do=do)
        do = f"leave it out beside {self.where}"
        if any(isinstance(one, GradientAccumulationScheduler) for one in trainer.callbacks):
            raise SolverError("Trainer.callbacks", "gradients are accumulated twice", got=_GAS, do=do)
        if trainer.accumulate_grad_batches != 1:
            got = str(trainer.accumulate_grad_batches)
            raise SolverError("Trainer.accumulate_grad_batches", "gradients are accumulated twice", got=got, do=do)
        if trainer.strategy.handles_gradient_accumulation:
            what, do = "accumulates by itself", f"use the Trainer's accumulate_grad_batches in place of {self.where}"
            raise SolverError("Trainer.strategy", what, got=type(trainer.strategy).__name__, do=do)
        if not module.automatic_optimization:
            do = "under manual optimisation use SolverMixin.solver_turn"
            raise SolverError(self.where, "needs automatic optimisation", got="manual optimisation", do=do)


_GAS = "GradientAccumulationScheduler"


def _batches(trainer: Trainer) -> int | None:
    """Batches of an epoch in this process; ``None`` where the loader does not say."""
    batches = trainer.num_training_batches
    return None if batches == float("inf") else int(batches)


def _weigher(module: Any, name: str | None, where: str) -> Callable[[Any], Any] | None:
    """What gives the weight of a batch."""
    if name is None:
        return None
    if not hasattr(module, name):
        own = [key for key in vars(type(module)) if not key.startswith("_")]
        own += [key for key in vars(module) if not key.startswith("_")]
        do = f"set it in __init__, or define a method of a batch; {suggestion(name, own)}"
        what = f"{type(module).__name__} has neither an attribute nor a method of this name"
        raise SolverError(f"{where}.weigh_by", what, got=repr(name), do=do)

    def weigh(batch: Any) -> Any:
        found = getattr(module, name)
        value = found(batch) if callable(found) else found
        if isinstance(value, Tensor) and value.numel() == 1:
            return value.detach().to(module.device, torch.float32).reshape(())
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            do = "let it be a number >= 0, or a tensor of one"
            raise SolverError(f"{where}.weigh_by", f"{name} is no weight of a batch", got=repr(value), do=do)
        return float(value)

    return weigh


def _mean_factor(window: _Window, trainer: Trainer, device: torch.device) -> Tensor:
    """What makes a weighted mean over all processes of gradients that were averaged over them."""
    total = torch.as_tensor(window.weight, dtype=torch.float32, device=device).clone()
    if trainer.world_size > 1:
        torch.distributed.all_reduce(total)
    # A window in which nothing is counted has no gradient; it is not divided by 0.
    return torch.where(total > 0, window.expected * trainer.world_size / total, torch.zeros_like(total))


def _scale(optimizer: Any, factor: Tensor) -> None:
    """Multiply the gradients of an optimiser."""
    found: dict[torch.device, list[Tensor]] = {}
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            if tensor.grad is not None:
                own = local(tensor.grad)
                found.setdefault(own.device, []).append(own._values() if own.is_sparse else own)
    with torch.no_grad():
        for device, gradients in found.items():
            torch._foreach_mul_(gradients, factor.to(device))


def _give_gradients(module: LightningModule, gradients: Mapping[str, Tensor]) -> None:
    """Put saved gradients back."""
    for name, parameter in module.named_parameters():
        saved = gradients.get(own_name(name))
        if saved is not None:
            own = saved.to(device=local(parameter.detach()).device)
            parameter.grad = like(own, parameter.detach())
