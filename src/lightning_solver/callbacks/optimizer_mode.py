"""Tells optimisers with ``train()`` and ``eval()``, as schedule-free ones are, which of the two it is."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from lightning_solver.errors import SolverError
from lightning_solver.optimizers.modes import POINT, ModeSwitch, has_modes

_KEY = "lightning_solver_points"


class OptimizerMode(Callback):
    """Switches schedule-free and other optimisers with modes, without the user doing anything.

    The trained weights are in the module from ``on_train_start``, and after each validation from the
    ``on_train_batch_start`` that follows. The evaluated weights are there in validation (the sanity check too), test
    and prediction, whatever hook runs then, and after ``fit``, also where it ended by an exception. Validation does not
    touch training: the very same weights come back. A further ``fit`` goes on in training mode.

    Every checkpoint, one of weights alone too, has the evaluated weights as its ``state_dict``; so has
    ``module.state_dict()`` at any time. Saving does not touch training. A full checkpoint also has, in the optimiser's
    state, the weights at which training goes on, so that a resumed run is bitwise the straight one. A checkpoint that
    was written without this callback is resumed by the optimiser's own switch, and a line of the log says so.

    Memory: one copy of the weights while they are evaluated and from the end of ``fit`` until the next, two while a
    checkpoint is made in training.

    The running statistics of a BatchNorm are gathered in training, and so at the trained weights, not at the evaluated.

    Works on one process, under DDP and FSDP2, with any ``LightningModule``; nothing is done where no optimiser has
    modes.

    Raises:
        SolverError: At the start of ``fit``, if the strategy or another callback keeps weights in a way in which the
            evaluated point cannot be had.

    Example:
        >>> trainer = Trainer(callbacks=[OptimizerMode()], logger=False, enable_checkpointing=False)
    """

    role = "mode"

    def __init__(self) -> None:
        self._switch = ModeSwitch()
        self._restored: dict[int, Any] | None = None

    # ------------------------------------------------------------------ training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the optimisers of this run."""
        self._attach(trainer, pl_module)
        if trainer.strategy.restore_checkpoint_after_setup:
            self._switch.train()  # to restore sharded state, torch makes a step with which nothing moves

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Steps are about to be taken."""
        self._attach(trainer, pl_module)
        restored, self._restored = self._restored, None
        for place, optimizer in enumerate(trainer.optimizers):
            if restored is not None and optimizer in self._switch.hookless:
                self._switch.take_own(optimizer, restored.get(place))
        self._switch.train()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A step may be taken; before it there may have been a validation."""
        self._attach(trainer, pl_module)
        self._switch.train()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module leaves ``fit`` with the weights that are meant to be used."""
        self._switch.eval()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same after Ctrl-C and errors, before a checkpoint is saved on them."""
        self._switch.eval()
        if POINT in str(exception) and trainer.ckpt_path:
            what = "the sharded checkpoint was written without OptimizerMode and lacks the weights that are trained"
            do = "resume from a full checkpoint (save_distributed_checkpoint=False), which may lack them"
            raise SolverError("ckpt_path", what, got=str(trainer.ckpt_path), do=do) from exception

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The module is itself again; a checkpoint that is saved by hand after ``fit`` is still whole."""
        if stage == "fit":
            self._switch.eval()
            self._switch.to_devices()
            self._switch.close()

    # ------------------------------------------------------------------ evaluation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In ``fit`` and out of it."""
        self._evaluate(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in validation."""
        self._evaluate(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in validation."""
        self._evaluate(pl_module)

    # ------------------------------------------------------------------ optimisers that cannot be given hooks

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The state of wrappers that are no torch optimiser underneath."""
        if self._switch.hookless and "optimizer_states" in checkpoint:
            places = {id(optimizer): place for place, optimizer in enumerate(trainer.optimizers)}
            checkpoint[_KEY] = self._switch.own_state(checkpoint["optimizer_states"], places)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it until the optimisers are there."""
        self._restored = checkpoint.get(_KEY, {}) if trainer.state.fn == "fit" else None

    # ------------------------------------------------------------------ not for users

    def _evaluate(self, module: LightningModule) -> None:
        if self._switch.module is module:
            self._switch.eval()

    def _attach(self, trainer: Trainer, module: LightningModule) -> None:
        """Watch the optimisers that the Trainer has now."""
        found = tuple(optimizer for optimizer in trainer.optimizers if has_modes(optimizer))
        present = self._switch
        if present.module is module and [*map(id, found)] == [*map(id, present.optimizers)]:
            present.open()
            return
        if found:
            _refuse(trainer, found)
        present.release()
        self._switch = ModeSwitch(found, module)


def _refuse(trainer: Any, optimizers: tuple[Any, ...]) -> None:
    """Strategies and callbacks that handle weights in ways of their own."""
    names = " and ".join(type(optimizer).__name__ for optimizer in optimizers)
    strategy = trainer.strategy
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):
        what = f"{names} is evaluated at other weights than it trains, which cannot be had under this strategy"
        do = "use ModelParallelStrategy (FSDP2) or DDP, or an optimiser without train() and eval()"
        raise SolverError("Trainer.strategy", what, got=type(strategy).__name__, do=do)
    for callback in trainer.callbacks:
        if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
            what = f"{names} averages the weights itself: two averages would both want to be evaluated"
            do = "drop one of the two"
            raise SolverError("Trainer.callbacks", what, got=type(callback).__name__, do=do)
