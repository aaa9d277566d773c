"""What every callback that averages weights does; :class:`EMA`, :class:`SWA` and that of the mixin say which averages.

All averages of a run are kept together, by the first of these callbacks: what is in the module, in its ``state_dict``
and in a checkpoint concerns all of them. The others only name theirs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch.optim import Optimizer

from lightning_solver.averaging.average import Count, UpdateBN
from lightning_solver.averaging.averaged import Averaged
from lightning_solver.averaging.batch_norm import norm_layers
from lightning_solver.averaging.planned import average_notes, refuse_modes, scope_of
from lightning_solver.averaging.tensors import Scope
from lightning_solver.averaging.weight_sets import KEY, Entry, WeightSets, evaluated_names, named_tensors
from lightning_solver.callbacks.live_evaluation import LiveEvaluation
from lightning_solver.callbacks.statistics import estimate_on_train_data, step_of
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.real_steps import RealSteps
from lightning_solver.rules.inventory import own_name
from lightning_solver.run_length import trainer_run_length
from lightning_solver.sharding import is_sharded


class Averaging(Callback, ABC):
    """Base of the callbacks that average weights."""

    role = "average"

    def __init__(self) -> None:
        self._leader: Averaging = self
        self._entries: dict[str, Entry] = {}
        self._sets: WeightSets | None = None
        self._steps: list[tuple[str, RealSteps]] = []
        self._loaded: dict[str, Any] | None = None
        self._load_hook: Any = None
        self._visiting = False
        self._guest = False  # whether the module holds what was loaded for an earlier evaluation
        self._shown = False  # whether it held the averages before an evaluation
        self._live = LiveEvaluation()

    @abstractmethod
    def entries(self, module: LightningModule) -> dict[str, Entry]:
        """The averages that this callback asks for, by name.

        Args:
            module: The module that is about to be trained.
        """

    @property
    def averaged(self) -> Mapping[str, Averaged]:
        """All averages of the present or the last ``fit``, by name."""
        sets = self._leader._sets
        return {} if sets is None else sets.averaged

    def release(self) -> None:
        """Let go of the averages and of the live weights; the module keeps what it holds.

        After ``fit`` both sets of weights stay in memory, so that a further ``fit`` or a checkpoint that is saved by
        hand goes on from where training was.
        """
        sets, self._leader._sets = self._leader._sets, None
        if sets is not None:
            sets.close()

    # ------------------------------------------------------------------ the beginning and the end

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the other callbacks that average; make ready for weights that are loaded for an evaluation."""
        alike = [callback for callback in trainer.callbacks if isinstance(callback, Averaging)]  # type: ignore[attr-defined]
        self._leader = next((callback for callback in alike if callback._sets is not None), alike[0])
        if self._leader is not self:
            return
        if stage == "fit":
            self._visiting, self._loaded, self._shown = False, None, False
            self._entries = _merged(alike, pl_module)
            _refuse(trainer, self._entries)
            sets = self._sets
            if sets is not None and self._goes_on(sets, pl_module) and not sets.protected and not sets.was_written():
                self._shown = sets.shown
                sets.show_live()  # what setup, configure_optimizers and another precision are to begin with
                sets.leave()
            return
        sets = self._sets
        self._visiting = sets is not None and sets.module is pl_module
        if sets is None or not self._visiting:
            return
        self._guest, self._shown = sets.protected, sets.shown
        if trainer.strategy.restore_checkpoint_after_setup:
            sets.protect()  # which tensors are loaded, and how, is the strategy's own business
        else:
            hooked: Any = pl_module
            self._load_hook = hooked.register_load_state_dict_pre_hook(_Protect(sets))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the averages, now that the model is on its device and sharded."""
        if self._leader is not self:
            return
        after = trainer.strategy.restore_checkpoint_after_setup
        loaded = not after and trainer.ckpt_path is not None
        if self._sets is not None and self._goes_on(self._sets, pl_module):
            self._sets.to_devices()
            self._go_on(trainer, pl_module, self._sets, loaded=loaded and self._loaded is not None)
        else:
            self.release()
            if self._entries or self._loaded is not None:
                self._make(trainer, pl_module)
                if self._sets is not None and trainer.global_step and not loaded and not after:
                    self._sets.load({}, {}, trainer.global_step)
        if self._sets is None:
            return
        refuse_modes((getattr(one, "optimizer", one) for one in trainer.optimizers), ", ".join(self._entries))
        if any(averaged.average.update_bn for averaged in self._sets.averaged.values()) and norm_layers(pl_module):
            step_of(pl_module)  # says what is missing now, and not when training is over
        self._sets.serving = False
        self._sets.come_back()
        if not after:
            self._restore(trainer)
        self._watch(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on ``state_dict`` is that of the evaluated average, once it has begun."""
        if self._leader is not self or self._sets is None:
            return
        self._restore(trainer)
        for _, real in self._steps:
            real.take()
        self._sets.serving = True
        self._tell_odd(trainer, pl_module, self._sets)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module keeps the average, or the live weights if the average is to be kept apart."""
        if self._leader is not self or self._sets is None:
            return
        for name, averaged in self._sets.averaged.items():
            averaged.conclude()
            if not averaged.begun and trainer.should_stop:
                report(f"training was stopped before the average {name} began, after step {averaged.start}")
        self._estimate(trainer, pl_module, at_end=True)
        self._show_kept(self._sets)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The live weights are in the module, whatever was going on, before a checkpoint is saved on the exception."""
        if self._leader is not self or self._sets is None or self._sets.module is not pl_module:
            return
        self._live.abort(pl_module)
        if trainer.state.fn == "fit" and not self._sets.protected:
            self._sets.show_live()
        self._go_home(trainer, self._sets)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The module has left its device; both sets of weights stay for a further ``fit``."""
        sets = self._sets
        if self._leader is not self or sets is None or sets.module is not pl_module:
            return
        if stage == "fit" and not sets.serving:  # there was nothing left to train
            sets.to_devices()
            sets.serving = True
            self._show_kept(sets)
            asked = [name for name, each in sets.averaged.items() if each.average.update_bn and each.begun]
            if asked:
                report(f"nothing was trained: the statistics of {', '.join(asked)} are those of the checkpoint")
        self._go_home(trainer, sets)
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            sets.serving = False  # what state_dict gives is put into the module of the process that started this one

    # ------------------------------------------------------------------ training

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take in what was unfrozen; and weights that are being copied to the CPU must not change yet."""
        if self._leader is self and self._sets is not None:
            self._sets.take_in_unfrozen()
            self._sets.settle()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the weights, if real steps were made in this batch."""
        if self._sets is None:
            return
        made: dict[str, int] = {}
        for part, real in self._steps:
            made[part] = max(made.get(part, 0), real.take())
        for part, steps in made.items():
            if steps:
                self._sets.update(part, steps)
                if getattr(trainer, "fast_dev_run", False):
                    continue
                self._sets.take_snapshots(part, lambda: _folder(trainer), lambda: _beside(trainer, pl_module))

    # ------------------------------------------------------------------ evaluation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average is what is validated."""
        if self._leader is not self or self._sets is None or self._sets.module is not pl_module:
            return
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._estimate(trainer, pl_module, at_end=False)
        self._show_evaluated(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in validation."""
        if self._leader is self and self._sets is not None and self._sets.module is pl_module:
            self._show_evaluated(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in validation."""
        self.on_test_start(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """The same batch with the live weights, where that is asked for."""
        if self._evaluates_live(trainer, pl_module):
            assert self._sets is not None
            with self._sets.live():
                self._live.batch(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end of the same epoch with the live weights."""
        if self._evaluates_live(trainer, pl_module):
            assert self._sets is not None
            with self._sets.live():
                self._live.epoch_end(trainer, pl_module)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """As in validation."""
        self.on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in validation."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training goes on with the live weights."""
        if self._leader is self and self._sets is not None and trainer.state.fn == "fit":
            self._sets.show_live()

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Both sets of weights are in a full checkpoint; a collective call where they are sharded."""
        sets = self._sets
        if self._leader is not self or sets is None or sets.module is not pl_module or sets.protected:
            return
        if not sets.averaged:
            return
        if not sets.training and trainer.strategy.broadcast(sets.was_written()):
            return  # they are not those of what the module holds any more
        sharded = any(
            isinstance(value, torch.Tensor) and is_sharded(value) for value in checkpoint["state_dict"].values()
        )
        data, kept = sets.state(sharded=sharded)
        if sharded:  # the strategy keeps the state of every optimiser part by part, and nothing else but the state_dict
            data["place"] = len(checkpoint["optimizer_states"])
            checkpoint["optimizer_states"].append(kept)
            checkpoint[KEY] = data
        else:
            checkpoint[KEY] = {**data, **kept}
        # Lightning tells a run that lacks the callback by these.
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Averaging) and callback.entries(pl_module):
                checkpoint["callbacks"][callback.state_key] = {"averages": [*callback.entries(pl_module)]}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what the checkpoint says until the averages are there."""
        if self._leader is not self or trainer.state.fn != "fit":
            return
        if self._loaded is not None and KEY not in checkpoint:
            return  # written and read back before the averages were there, by a search for a batch size or a rate
        data = checkpoint.get(KEY) or _of_lightning(checkpoint, evaluated_names(self._entries), pl_module)
        if data is None and not self._entries:
            return
        # Lightning counts the steps of all optimisers together
        steps = int(checkpoint.get("global_step", 0)) // max(len(checkpoint.get("optimizer_states", ())), 1)
        self._loaded = {"data": data or {}, "steps": steps}
        ours = self._sets is not None and self._goes_on(self._sets, pl_module)
        if trainer.strategy.restore_checkpoint_after_setup or ours:
            if self._sets is None:
                self._make(trainer, pl_module)
            shown = ours and self._sets is not None and (self._sets.shown or self._shown)
            self._restore(trainer)
            if ours and self._sets is not None and not self._sets.training:
                if shown:
                    self._sets.show_average()
                self._sets.leave()  # what was written is what it holds

    # ------------------------------------------------------------------ not for users

    def _goes_on(self, sets: WeightSets, module: LightningModule) -> bool:
        """Whether the averages of the last ``fit`` are those of this one."""
        return sets.entries == self._entries and sets.same_module(module)

    def _make(self, trainer: Trainer, module: LightningModule) -> None:
        self.release()
        earlier = WeightSets.of(module)
        if earlier is not None:  # those of another callback, in an earlier fit
            if earlier.same_module(module) and not earlier.protected and not earlier.was_written():
                earlier.to_devices()
                earlier.show_live()
            earlier.close()
        scopes = _scopes(module)
        self._sets = WeightSets(module, self._entries, lambda part: self._run(trainer, module, part), scopes)

    def _go_on(self, trainer: Trainer, module: LightningModule, sets: WeightSets, *, loaded: bool) -> None:
        """A further ``fit`` of the same module: from the live weights, unless somebody has given it others."""
        if loaded:
            sets.restart()
            return
        written = trainer.strategy.broadcast(sets.was_written())  # DDP takes the weights of the first process
        sets.unprotect(restore=not written)
        if written:
            report("the module was given other weights since the last fit: training and averages begin with them")
            sets.restart()
        sets.show_live()
        steps = max((averaged.count.steps for averaged in sets.averaged.values()), default=0)
        if steps and trainer.global_step == 0:
            report(f"a new Trainer counts from 0, the averages go on from step {steps}: release() lets them begin anew")
        for name, entry in sets.entries.items():
            sets.averaged[name].lay(self._run(trainer, module, entry.part))
            if written:
                sets.averaged[name].begin_late(trainer.global_step)

    def _restore(self, trainer: Trainer) -> None:
        """Go on from the checkpoint that was loaded."""
        loaded, self._loaded = self._loaded, None
        if loaded is None or self._sets is None:
            return
        data, kept = loaded["data"], loaded["data"]
        if "place" in data:
            from torch.distributed import checkpoint as sharded_files

            kept = self._sets.targets(data)
            files: Any = sharded_files
            files.load({f"optimizer_{data['place']}": kept}, checkpoint_id=str(trainer.ckpt_path))
        self._sets.load(data, kept, loaded["steps"])

    def _watch(self, trainer: Trainer, module: LightningModule) -> None:
        """Watch the steps of the optimisers."""
        parts: Mapping[str, Any] = getattr(module, "solver_parts", {})
        names = {entry.part for entry in self._entries.values()}
        self._steps = [(name, RealSteps(parts[name].optimizer)) for name in names if name in parts]
        if "" in names:
            self._steps += [("", RealSteps(optimizer)) for optimizer in trainer.optimizers]

    def _run(self, trainer: Trainer, module: LightningModule, part: str, *, needed: bool = True) -> RunLength:
        """The length of the run, which is looked for only where an average needs it."""
        parts: Mapping[str, Any] = getattr(module, "solver_parts", {})
        if part in parts:
            run: RunLength = parts[part].plan.run
            return run
        if needed and not any(entry.average.needs_run for entry in self._entries.values()):
            return RunLength()
        return trainer_run_length(trainer)

    def _tell_odd(self, trainer: Trainer, module: LightningModule, sets: WeightSets) -> None:
        """Say what is odd about averages that no plan has spoken of."""
        notes: list[str] = []
        for name, averaged in sets.averaged.items():
            entry = self._entries[name]
            if not averaged.begun or averaged.count.began == averaged.count.steps:
                if entry.part in getattr(module, "solver_parts", {}) or getattr(trainer, "fast_dev_run", False):
                    continue
                run = self._run(trainer, module, entry.part, needed=False)
                evaluated = name in sets.evaluated
                notes += average_notes(entry.average, module, run, entry.where, evaluated=evaluated)
        if notes:
            report("notes on the averages:", notes)

    def _show_evaluated(self, trainer: Trainer) -> None:
        """Put the averages into the module, unless it holds what was loaded for this evaluation."""
        assert self._sets is not None
        if not self._is_loaded(trainer) and not (self._visiting and self._guest):
            self._sets.show_average()

    def _is_loaded(self, trainer: Trainer) -> bool:
        """Whether the module holds the weights of a checkpoint that an evaluation has loaded."""
        return trainer.state.fn != "fit" and trainer.ckpt_path is not None

    def _go_home(self, trainer: Trainer, sets: WeightSets) -> None:
        """An evaluation, or a run, is over: what was exchanged comes back; what was loaded stays, if nothing trains."""
        self._unhook()
        sets.to_devices()
        visiting, self._visiting = self._visiting, False
        if visiting and sets.training:
            sets.unprotect(restore=True)
        elif visiting and not self._is_loaded(trainer) and not self._guest:
            sets.unprotect(restore=False)
        if visiting and not sets.protected:
            if self._shown:
                sets.show_average()
            else:
                sets.show_live()
        if not (visiting and sets.training):
            sets.leave()

    def _show_kept(self, sets: WeightSets) -> None:
        """What the module keeps."""
        if all(sets.entries[name].average.keep == "average" for name in sets.evaluated):
            sets.show_average()
        else:
            sets.show_live()

    def _evaluates_live(self, trainer: Trainer, module: LightningModule) -> bool:
        sets = self._sets
        if self._is_loaded(trainer):
            return False  # the live weights are not those of the file
        if self._leader is not self or sets is None or sets.module is not module or not sets.shown:
            return False
        return any(sets.entries[name].average.evaluate_live for name in sets.evaluated)

    def _estimate(self, trainer: Trainer, module: LightningModule, *, at_end: bool) -> None:
        """Estimate the statistics of batch norms anew for the averages that ask for it."""
        assert self._sets is not None
        for name, averaged in self._sets.averaged.items():
            asked = averaged.average.update_bn
            if not asked or not averaged.begun:
                continue
            how = asked if isinstance(asked, UpdateBN) else UpdateBN()
            if at_end or how.at == "validation":
                with self._sets.shown_alone(name):
                    estimate_on_train_data(trainer, module, how.batches, title=name)

    def _unhook(self) -> None:
        hook, self._load_hook = self._load_hook, None
        if hook is not None:
            hook.remove()


class _Protect:
    """Keeps what the module holds before a checkpoint is loaded into it for an evaluation."""

    def __init__(self, sets: WeightSets) -> None:
        self.sets = sets

    def __call__(self, *args: Any) -> None:
        self.sets.protect()


def _of_lightning(checkpoint: dict[str, Any], names: tuple[str, ...], module: LightningModule) -> dict[str, Any] | None:
    """What a checkpoint of Lightning's own weight averaging says, in our words; ``None`` for every other one.

    It has the average as its ``state_dict``, and the live weights beside it.

    Args:
        checkpoint: The checkpoint.
        names: The names of the averages that are evaluated here, which go on from that one.
        module: The module.
    """
    state, about = checkpoint.get("current_model_state"), checkpoint.get("averaging_state")
    if not isinstance(state, Mapping) or not isinstance(about, Mapping):
        return None
    known = named_tensors(module)
    live = {own_name(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    updates, steps = int(about.get("n_averaged", 0)), int(checkpoint.get("global_step", 0))
    count = Count(steps)
    if updates:
        count = Count(steps, began=max(steps - updates + 1, 0), updates=updates, latest=steps)
    report("the checkpoint is one of Lightning's weight averaging: training goes on from its live weights")
    return {
        "state_dict": [*names],
        "averages": {name: {"count": asdict(count)} for name in names},
        "names": {"live": [], "values": {}},
        "live": {name: value for name, value in live.items() if name in known},
        "values": {},
    }


def _folder(trainer: Trainer) -> Path:
    """Where snapshots go; processes agree on it."""
    return Path(trainer.log_dir or trainer.default_root_dir) / "averages"


def _beside(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What makes a Lightning checkpoint of weights, so that the module can be made from it."""
    found: dict[str, Any] = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "pytorch-lightning_version": version("lightning"),
    }
    if module.hparams:
        found[module.CHECKPOINT_HYPER_PARAMS_KEY] = dict(module.hparams)
        if hasattr(module, "_hparams_name"):
            found[module.CHECKPOINT_HYPER_PARAMS_NAME] = module._hparams_name
    return found


def _merged(callbacks: list[Averaging], module: LightningModule) -> dict[str, Entry]:
    """The averages of all callbacks by name."""
    kinds = {type(callback).__name__ for callback in callbacks if callback.entries(module)}
    if len(kinds) > 1 and "SolverAverages" in kinds:
        got = f"{', '.join(sorted(kinds - {'SolverAverages'}))} in the Trainer"
        do = "say all of them in the solver's averages, or all as callbacks"
        raise SolverError("averages", "are asked for by the solver and by callbacks", got=got, do=do)
    found: dict[str, Entry] = {}
    for callback in callbacks:
        for name, entry in callback.entries(module).items():
            if name in found:
                what = "two averages have the same name"
                do = "give one of them another, as in EMA(decay=0.9999, name='slow')"
                raise SolverError("Trainer.callbacks", what, got=repr(name), do=do)
            found[name] = entry
    evaluated_names(found)
    return found


def _scopes(module: LightningModule) -> dict[str, Scope]:
    """Which tensors belong to the optimisers of a solver."""
    parts: Mapping[str, Any] = getattr(module, "solver_parts", {})
    return {name: scope_of(part.parameters, part.plan.spec.only) for name, part in parts.items()}


def _refuse(trainer: Any, entries: Mapping[str, Entry]) -> None:
    """Strategies, callbacks and optimisers that handle weights in ways of their own."""
    if not entries:
        return
    names = ", ".join(entries)
    strategy = trainer.strategy
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):
        do = "use ModelParallelStrategy (FSDP2) or DDP, or drop the averages"
        what = f"{names}: averages cannot be had of weights that this strategy holds in a form of its own"
        raise SolverError("Trainer.strategy", what, got=type(strategy).__name__, do=do)
    for callback in trainer.callbacks:
        if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
            what = f"{names}: two callbacks would both change the weights that are evaluated"
            raise SolverError("Trainer.callbacks", what, got=type(callback).__name__, do="drop one of the two")
