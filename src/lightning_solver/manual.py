"""A turn of one optimiser under manual optimisation: backward, accumulation, step and schedule."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_solver.errors import SolverError
from lightning_solver.parts import Part, accumulation_of_turns
from lightning_solver.sharding import is_sharded


class Turn:
    """What :meth:`SolverMixin.solver_turn` gives: ``turn.step(loss)``.

    Args:
        module: The module.
        part: Whose turn it is.
        accumulate: Batches that make one step.

    Raises:
        SolverError: A setting that makes no sense.
    """

    def __init__(
        self,
        module: LightningModule,
        part: Part,
        *,
        accumulate: int = 1,
    ) -> None:
        if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
            raise _wrong("accumulate", "must be a whole number >= 1", accumulate, "give the batches that make a step")
        spec = part.plan.spec
        if spec.accumulate is not None and accumulation_of_turns(spec) != accumulate:
            what = f"is not the {accumulation_of_turns(spec)} that {part.name} has in its specification, and its plan"
            do = "say it in one place; batches_per_step in place of accumulate leaves it to the turns"
            raise _wrong("accumulate", what, accumulate, do)
        if part.gathered and part.window != accumulate:
            what = f"is changed after {part.gathered} of {part.window} batches"
            raise _wrong("accumulate", what, accumulate, "change it right after a step")
        self._module = module
        self._part = part
        self._accumulate = accumulate
        self._over = False

    @property
    def steps(self) -> int:
        """Real steps that this optimiser has made in the whole run."""
        return self._part.scheduler.last_epoch

    def step(self, loss: Tensor | None) -> bool:
        """Take the loss of one batch: backward, and the step if this is the last batch that it is made of.

        The gradients of ``accumulate`` calls are averaged. Those before the last are not synchronised between
        processes. After a real step (some gradient was there, and a loss scaler found it finite) the schedules of this
        optimiser move on; its gradients are let go.

        Args:
            loss: The loss, a scalar; ``None`` leaves this batch out of the average (its share counts as 0).

        Returns:
            Whether a real step was made.

        Raises:
            SolverError: A loss that has no gradient; ``None`` with several processes; a turn that is over.
        """
        part = self._part
        if self._over:
            raise _wrong("step", "the turn is over", part.name, "call it inside of the with block")
        if part.gathered == 0:
            part.optimizer.zero_grad()
            part.window = self._accumulate
        part.batches += 1
        final = part.gathered + 1 == part.window
        self._backward(loss, final)
        part.gathered = 0 if final else part.gathered + 1
        return final and self._optimizer_step()

    def close(self) -> None:
        """No more steps from here on."""
        self._over = True

    def _backward(self, loss: Tensor | None, final: bool) -> None:
        trainer = self._module.trainer
        if loss is None:
            if trainer.world_size > 1:
                what = f"{self._part.name}: the processes wait for each other's gradients"
                raise _wrong("step", what, loss, "give a loss in each process, such as 0.0 * a loss")
            return
        if not isinstance(loss, Tensor):
            raise _wrong("step", "takes the loss", loss, "give a tensor of one number")
        if not loss.requires_grad:
            what = f"the loss does not depend on the parameters of {self._part.name}"
            raise _wrong("step", what, loss, "compute it inside of the with block, from tensors that are not detached")
        # Only strategies that run processes side by side have it.
        unsynchronised = getattr(trainer.strategy, "block_backward_sync", contextlib.nullcontext)
        with contextlib.nullcontext() if final else unsynchronised():
            self._module.manual_backward(loss if self._accumulate == 1 else loss / self._accumulate)

    def _optimizer_step(self) -> bool:
        part = self._part
        if all(tensor.grad is None for tensor in part.parameters):
            return False
        part.real_steps.take()
        self._wrapped().step()
        made = part.real_steps.take() > 0
        part.optimizer.zero_grad()
        if made:
            part.scheduler.step()
        else:
            part.skipped += 1
        return made

    def _wrapped(self) -> Any:
        """The optimiser as Lightning wraps it, with precision, counting and profiling."""
        given: Any = self._module.optimizers()
        for wrapped in given if isinstance(given, list) else [given]:
            if wrapped.optimizer is self._part.optimizer:
                return wrapped
        what = "the optimiser of the plan is not among the Trainer's"
        raise _wrong("step", what, self._part.name, "return what super().configure_optimizers() returns")


@contextlib.contextmanager
def alone_trainable(part: Part, parts: Iterable[Part]) -> Iterator[None]:
    """Within it no other part gathers gradients, whatever happens.

    Args:
        part: The one that does.
        parts: All of them.
    """
    others = [tensor for other in parts if other is not part for tensor in other.parameters if tensor.requires_grad]
    # FSDP2 looks once whether a parameter requires a gradient, and not again: there gradients are put aside.
    sharded = any(is_sharded(tensor) for tensor in others)
    gathered = [tensor.grad for tensor in others] if sharded else []
    for tensor in others:
        if sharded:
            tensor.grad = None
        else:
            tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in others if not sharded else ():
            tensor.requires_grad_(True)
        for tensor, gradient in zip(others, gathered):
            tensor.grad = gradient


def _wrong(name: str, what: str, got: Any, do: str) -> SolverError:
    shown = f"a tensor of shape {tuple(got.shape)}" if isinstance(got, Tensor) else repr(got)
    return SolverError(f"solver_turn: {name}", what, got=shown, do=do)
