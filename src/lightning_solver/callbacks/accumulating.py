"""The hooks of every callback that accumulates gradients.

Lightning's loop steps after every ``accumulate_grad_batches`` batches, counted from the start of the epoch, divides
each loss by that number, and lets go of gradients only where a window of that length begins. Before each batch the
number is set so that it steps where a window of ours ends, and the losses are scaled to what the window really holds.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lightning_solver.accumulation import Accumulates, Accumulation, Windows
from lightning_solver.callbacks.order import rest, take_places
from lightning_solver.clipping.norms import by_device, dense
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.logs import report
from lightning_solver.real_steps import loss_scaler
from lightning_solver.rules.inventory import own_name
from lightning_solver.run_length import accumulation_windows, samples_per_batch
from lightning_solver.sharding import like, local

_KEY = "lightning_solver_window"


@dataclass
class _Window:
    """The batches of one step.

    Args:
        epoch: The number of their epoch (0-based).
        begin: The first of them, by its number in the epoch (0-based).
        size: How many they were to be.
        end: The batch after the last one.
        expected: By how many batches the gradients are divided at first.
        own: Whether Lightning's own counting does not give this window.
        held: How many batches have given gradients.
        weight: What these count, where batches do not count equally.
        stepped: Whether its gradients were handed to the optimiser.
        aside: Parameters and their gradients, while these must not be seen.
    """

    epoch: int
    begin: int
    size: int
    end: int
    expected: int
    own: bool
    held: int = 0
    weight: Any = 0.0
    stepped: bool = False
    aside: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether it holds gradients that have led to no step."""
        return self.held > 0 and not self.stepped


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
        self._unit: float | None = None
        self._batch: Any = None
        self._gave = False
        self._restored: dict[str, Any] | None = None
        self._found: int | None = None

    @abstractmethod
    def accumulation(self, module: Any) -> Accumulation | None:
        """How it accumulates for a module; ``None`` if it does not."""

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Callbacks act in the order in which they have to; the Trainer is told the first number already here.

        With it ``trainer.estimated_stepping_batches`` is right in ``configure_optimizers`` where the number never
        changes, and Lightning's learning-rate finder accumulates too.
        """
        take_places(trainer)
        if stage == "fit":
            self._restored = None  # of a run that never began; the checkpoint of this one is read later
        how = self.accumulation(pl_module) if stage == "fit" else None
        if how is not None and how.first is not None and self._found is None and trainer.accumulate_grad_batches == 1:
            self._found, trainer.accumulate_grad_batches = 1, how.first

    @property
    def holds(self) -> int:
        """How many batches have given gradients that have led to no step so far."""
        return self._window.held if self._window is not None and self._window.open else 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what would accumulate beside it."""
        self._how, self._window, self._unit = self.accumulation(pl_module), None, None
        if self._how is not None:
            self._refuse(trainer, pl_module)
            self._weigh = _weigher(pl_module, self._how.weigh_by, self.where)
            self._found = 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The windows of this run; one that a checkpoint was written in goes on."""
        restored, self._restored = self._restored, None
        if self._how is None:
            if restored is not None and restored.get("held"):
                what = "the checkpoint was written in mid-window, and gradients are not accumulated any more"
                report(f"{what}: {_lost(restored)} are lost")
            rest(self)
            return
        self._windows = accumulation_windows(trainer, samples_per_batch(trainer))
        if self._windows.within_epochs and _batches(trainer) is None:
            do = "give points in whole epochs, or in steps"
            what = "a point within an epoch needs its length, which is not known"
            raise SolverError(self.where, what, got=self._how.describe(), do=do)
        if self._windows.constant != 1 and any(isinstance(one, LBFGS) for one in trainer.optimizers):
            do = "take another optimiser, or larger batches"
            raise SolverError(self.where, "LBFGS evaluates a batch several times, and only the last one", do=do)
        if self._windows.constant != 1 and _fetches(pl_module):
            what = "training_step fetches its batches itself, where Lightning lets go of gradients in mid-window"
            do = "take a batch in training_step"
            raise SolverError(self.where, what, got="training_step(self, dataloader_iter)", do=do)
        if restored is not None:
            self._unit = restored.get("unit")
            if "begin" in restored:
                self._resume(trainer, pl_module, restored)
        self._tell(trainer)
        if self._windows.constant == 1 and self._weigh is None and self._window is None:
            rest(self)  # as Lightning does it by itself

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let the loop step after the last batch of a window, and nowhere else."""
        if self._how is None:
            return
        self._gave = False
        self._batch = batch if self._weigh is not None else None
        window = self._window
        if window is None or window.epoch != trainer.current_epoch or batch_idx >= window.end:
            window = self._window = self._begin(trainer, pl_module, batch_idx)
        if trainer.is_last_batch:  # which a loader without a length tells only now
            window.end = batch_idx + 1
        if window.own:
            trainer.accumulate_grad_batches = batch_idx + (1 if batch_idx == window.end - 1 else 2)
        else:
            trainer.accumulate_grad_batches = window.size

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Scale the loss, which Lightning has divided by its number, to the window."""
        window = self._window
        if self._how is None or window is None:
            return
        if window.stepped:  # the optimiser evaluates the batch once more
            if trainer.fit_loop.epoch_loop.batch_idx % trainer.accumulate_grad_batches:
                what = "the optimiser evaluates a batch several times, and only the last one of a window"
                do = "take another optimiser, or larger batches"
                raise SolverError(self.where, what, got=_optimizers(trainer), do=do)
            window.held, window.weight, window.stepped = 0, 0.0, False
        factor: Any = 1.0
        if trainer.accumulate_grad_batches != window.expected:
            factor = trainer.accumulate_grad_batches / window.expected
        if self._weigh is not None:
            weight = self._weigh(self._batch)
            if self._unit is None:
                self._unit = _unit(weight, trainer, pl_module.device)
            weight = weight / (self._unit or 1.0)
            window.weight = window.weight + weight
            factor = factor * weight
        window.held += 1
        self._gave = True
        if isinstance(factor, Tensor) or factor != 1.0:
            loss.mul_(factor)  # recorded, so that the gradients are scaled

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The window is over: bring its gradients to the mean over what it really held."""
        window = self._window
        if self._how is None or window is None or not window.open:
            return
        if not self._gave and loss_scaler(trainer) is not None:
            # With a loss scaler Lightning makes no step after a batch without a loss; the next window takes them in.
            window.aside = _put_aside(optimizer)
            return
        factor: Any = None
        if self._weigh is not None:
            factor = _mean_factor(window, trainer, pl_module.device)
        elif window.held != window.expected:  # batches without a loss, or fewer than the loader seemed to have
            factor = torch.tensor(window.expected / window.held, device=pl_module.device)
        window.stepped = True
        if factor is not None:
            _scale(optimizer, factor)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let go of what a batch needed; the loss that callbacks are given is divided by the batches of its window."""
        self._batch = None
        window = self._window
        if self._how is None or window is None or not isinstance(outputs, dict):
            return
        loss, told = outputs.get("loss"), trainer.accumulate_grad_batches
        if isinstance(loss, Tensor) and told != window.expected:
            outputs["loss"] = loss * (told / window.expected)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was gathered for nothing; the Trainer is left as it was found."""
        if self._how is not None and self._window is not None and self._window.open:
            report(f"the gradients of the last {_count(self._window.held)} led to no step: the run ended in mid-window")
        self._leave(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The Trainer is left as it was found."""
        self._leave(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The Trainer is left as it was found, also where a Tuner has ended the run before it began."""
        self._leave(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say in which window it was written, with its gradients if that was asked for; a collective call then."""
        window = self._window
        if self._how is None:
            return
        saved: dict[str, Any] = {} if self._unit is None else {"unit": self._unit}
        ready, done = _progress(trainer)
        if window is not None and (window.open or window.begin < done < window.end):
            broken = self._gave and ready > done  # in a batch that has to be done again
            saved |= {name: getattr(window, name) for name in ("epoch", "begin", "size", "end", "own", "expected")}
            saved["held"] = window.held - (1 if broken else 0)
            if self._how.keep_gradients:
                saved["states"] = _gather(None if broken else _state(window, pl_module) | {"scale": _scale_of(trainer)})
        if saved:
            checkpoint[_KEY] = saved

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the window until training starts."""
        if trainer.state.fn == "fit":
            self._restored = checkpoint.get(_KEY)
            if self._restored is None and self.accumulation(pl_module) is not None and _in_window(checkpoint):
                what = (
                    "the checkpoint was written in mid-window, by Lightning's own accumulation, without the gradients"
                )
                report(f"{what}: the rest of the window makes a step")

    # ------------------------------------------------------------------ not for users

    def _begin(self, trainer: Trainer, module: LightningModule, batch_idx: int) -> _Window:
        """A new window; one whose step never came goes on in it."""
        batches, epoch, last = _batches(trainer), trainer.current_epoch, self._window
        size = self._windows.size_at(trainer.global_step, epoch, batch_idx, batches)
        end = batch_idx + size
        if last is None and self._windows.constant is not None:
            end -= batch_idx % size  # a checkpoint may know nothing of windows: they end where they would have
        end = end if batches is None else min(end, batches)
        window = _Window(epoch, batch_idx, size, end, end - batch_idx, own=batch_idx % size != 0)
        if last is not None and last.open and last.epoch == epoch:
            for parameter, gradient in last.aside:
                parameter.grad = gradient
            window.own, window.expected, window.held, window.weight = True, last.expected, last.held, last.weight
            return window
        if last is not None and last.open:
            report(f"the gradients of the last {_count(last.held)} of an epoch led to no step: it ended in mid-window")
        if window.own:  # Lightning does so only where it would begin one
            _let_go(trainer, module, batch_idx)
        return window

    def _resume(self, trainer: Trainer, module: LightningModule, restored: dict[str, Any]) -> None:
        """Go on with the window of a checkpoint."""
        _, done = _progress(trainer)
        states = restored.get("states") or [None]
        window = _Window(*(restored[name] for name in ("epoch", "begin", "size", "end", "expected", "own")))
        if None not in states and len(states) == trainer.world_size:
            own = states[trainer.global_rank]
            scale = _scale_of(trainer)
            _give_gradients(module, own["gradients"], scale / own.get("scale", scale))
            window.held, window.weight = restored["held"], own["weight"]
            self._window = window
            return
        rest = f"its next step is made of the other {_count(window.end - done)}"
        if done >= window.end or window.epoch != trainer.current_epoch:
            rest = "they are lost"
        else:
            self._window = window
        why = f"without {_lost(restored)}"
        if None not in states:
            why = f"by another number of processes ({len(states)} then, {trainer.world_size} now)"
        if restored["held"]:
            report(f"the checkpoint was written in mid-window {why}: {rest}")

    def _tell(self, trainer: Trainer) -> None:
        """Give the Trainer a number with which its loop sees how far a window is where training starts or goes on.

        By this number it also decides whether to warn of a loader that begins the epoch anew.
        """
        batches, (_, done) = _batches(trainer), _progress(trainer)
        if not trainer.fit_loop.epoch_loop.restarting or done == 0:
            numbers = [self._windows.size_at(trainer.global_step, trainer.current_epoch, 0, batches)]
        elif batches is not None and done >= batches:
            numbers = [batches]  # between epochs
        else:
            stepped = self._window is None
            numbers = [number for number in range(1, done + 2) if (done % number == 0) == stepped]
        told = (number for number in numbers if trainer.global_step % math.ceil((batches or number) / number))
        trainer.accumulate_grad_batches = next(told, numbers[0])

    def _leave(self, trainer: Trainer) -> None:
        if self._found is not None:
            trainer.accumulate_grad_batches, self._found = self._found, None

    def _refuse(self, trainer: Any, module: LightningModule) -> None:
        others = [one for one in trainer.callbacks if isinstance(one, Accumulates) and one is not self]
        for other in others:
            if other.accumulation(module) is not None:
                names = " and ".join(sorted((type(self).__name__, type(other).__name__)))
                do = "say it in the solver or by one callback"
                raise SolverError(self.where, "gradients are accumulated twice", got=names, do=do)
        do = f"leave it out beside {self.where}"
        if any(isinstance(one, GradientAccumulationScheduler) for one in trainer.callbacks):
            got = GradientAccumulationScheduler.__name__
            raise SolverError("Trainer.callbacks", "gradients are accumulated twice", got=got, do=do)
        if self._found is None and trainer.accumulate_grad_batches != 1:
            got = str(trainer.accumulate_grad_batches)
            raise SolverError("Trainer.accumulate_grad_batches", "gradients are accumulated twice", got=got, do=do)
        swa = [one for one in trainer.callbacks if isinstance(one, StochasticWeightAveraging)]
        if swa and StochasticWeightAveraging.pl_module_contains_batch_norm(module):
            what = "accumulates in its own way in an epoch for batch norms, in which no step must be made"
            do = "use averages of the solver, or callbacks.SWA"
            raise SolverError("Trainer.callbacks", what, got=type(swa[0]).__name__, do=do)
        if trainer.strategy.handles_gradient_accumulation:
            what, do = "accumulates by itself", f"use the Trainer's accumulate_grad_batches in place of {self.where}"
            raise SolverError("Trainer.strategy", what, got=type(trainer.strategy).__name__, do=do)
        if not module.automatic_optimization:
            do = "under manual optimisation use SolverMixin.solver_turn"
            raise SolverError(self.where, "needs automatic optimisation", got="manual optimisation", do=do)


def _in_window(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was written between the batches of a step, by what Lightning's loop has counted."""
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    counted = loops.get("epoch_loop.automatic_optimization.optim_progress", {}).get("optimizer", {})
    begun, made = (counted.get(what, {}).get("current", {}).get("completed", 0) for what in ("zero_grad", "step"))
    return bool(begun > made)


def _batches(trainer: Trainer) -> int | None:
    """Batches of an epoch in this process; ``None`` where the loader does not say."""
    batches = trainer.num_training_batches
    return None if batches == float("inf") else int(batches)


def _progress(trainer: Any) -> tuple[int, int]:
    """Batches of the epoch that have begun, and those that training is done with."""
    current = trainer.fit_loop.epoch_loop.batch_progress.current
    return current.ready, current.processed


def _fetches(module: LightningModule) -> bool:
    """Whether ``training_step`` is given an iterator in place of a batch."""
    return is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True)


def _optimizers(trainer: Trainer) -> str:
    return ", ".join(type(getattr(one, "optimizer", one)).__name__ for one in trainer.optimizers)


def _scale_of(trainer: Trainer) -> float:
    """What a loss scaler has multiplied gradients by."""
    scaler = loss_scaler(trainer)
    return 1.0 if scaler is None else float(scaler.get_scale())


def _count(batches: int) -> str:
    return f"{batches} batch" if batches == 1 else f"{batches} batches"


def _lost(restored: Mapping[str, Any]) -> str:
    """The gradients that a checkpoint does not hold."""
    return f"the gradients of {restored['held']} of its {_count(restored['end'] - restored['begin'])}"


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
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            do = "let it be a number >= 0, or a tensor of one"
            raise SolverError(f"{where}.weigh_by", f"{name} is no weight of a batch", got=repr(value), do=do)
        return float(value)

    return weigh


def _unit(weight: Any, trainer: Trainer, device: torch.device) -> float | None:
    """What weights are counted in, so that losses keep their order of magnitude, as fp16 needs; ``None`` yet for 0.

    A power of 2, so that it changes no digit; from the first batch, the same in all processes.
    """
    largest = torch.as_tensor(weight, dtype=torch.float32, device=device).clone()
    if trainer.world_size > 1:
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    value = float(largest)
    return 2.0 ** round(math.log2(value)) if 0 < value < math.inf else None


def _mean_factor(window: _Window, trainer: Trainer, device: torch.device) -> Tensor:
    """What makes a weighted mean over all processes of gradients that were averaged over them."""
    total = torch.as_tensor(window.weight, dtype=torch.float32, device=device).clone()
    if trainer.world_size > 1:
        torch.distributed.all_reduce(total)
    # A window in which nothing is counted has no gradient; it is not divided by 0.
    return torch.where(total > 0, window.expected * trainer.world_size / total, torch.zeros_like(total))


def _scale(optimizer: Any, factor: Tensor) -> None:
    """Multiply the gradients of an optimiser."""
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    gradients = [dense(tensor.grad) for tensor in tensors if tensor.grad is not None]
    with torch.no_grad():
        for own in by_device(gradients):
            torch._foreach_mul_(own, factor.to(own[0].device))


def _put_aside(optimizer: Any) -> list[tuple[Tensor, Tensor]]:
    """Take the gradients of an optimiser away from its parameters."""
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"] if tensor.grad is not None]
    found = [(tensor, tensor.grad) for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    return found


def _let_go(trainer: Any, module: LightningModule, batch_idx: int) -> None:
    """Let go of gradients through the hooks that Lightning calls."""
    for optimizer in trainer.optimizers:
        for callback in trainer.callbacks:
            if callable(callback.on_before_zero_grad):  # order.take_places takes it off those that do nothing in it
                callback.on_before_zero_grad(trainer, module, optimizer)
        module.on_before_zero_grad(optimizer)
        module.optimizer_zero_grad(trainer.current_epoch, batch_idx, optimizer)


def _state(window: _Window, module: LightningModule) -> dict[str, Any]:
    """What this process has gathered in a window."""
    aside = {id(parameter): gradient for parameter, gradient in window.aside}
    found = {name: aside.get(id(parameter), parameter.grad) for name, parameter in module.named_parameters()}
    gradients = {own_name(name): local(grad).cpu().clone() for name, grad in found.items() if grad is not None}
    return {"weight": float(window.weight), "gradients": gradients}


def _gather(own: Any) -> list[Any]:
    """What each process gives, in the first of them, which writes it; a collective call."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.gather_object(own, states if distributed.get_rank() == 0 else None)
    return states


def _give_gradients(module: LightningModule, gradients: Mapping[str, Tensor], factor: float) -> None:
    """Put saved gradients back, multiplied by a factor."""
    for name, parameter in module.named_parameters():
        saved = gradients.get(own_name(name))
        if saved is not None:
            own = saved.to(device=local(parameter.detach()).device)
            own = own if factor == 1.0 else own * factor
            parameter.grad = like(own, parameter.detach())
