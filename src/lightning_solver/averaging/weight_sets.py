"""The averages of a module, and which set of weights is where: in the module, in its ``state_dict``, in a checkpoint.

There are the live weights, which are trained, and those of the averages. One average at most is evaluated for each
tensor; its values take the place of the live weights while the module is evaluated, and they are what
``module.state_dict()`` gives at any time once the average has begun.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_solver.averaging.average import Average, Count, find_evaluated
from lightning_solver.averaging.averaged import Averaged
from lightning_solver.averaging.post_hoc import save_snapshot, snapshot_path
from lightning_solver.averaging.tensors import Scope, averaged_tensors, saved_buffers
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.plain import thaw
from lightning_solver.rules.inventory import own_name
from lightning_solver.sharding import is_first_process, is_sharded, like, local, part_of, reshard, whole

KEY = "lightning_solver_averages"
"""Where a checkpoint holds what its ``state_dict`` does not: the live weights, other averages, and counts."""


@dataclass(frozen=True)
class Entry:
    """An average that a module is to have.

    Args:
        average: What is averaged, and how.
        part: The optimiser whose steps count; ``""`` for all.
        where: Its path, for error messages.
    """

    average: Average
    part: str = ""
    where: str = "average"


class WeightSets:
    """The averages of a module.

    Args:
        module: The module, as it is trained.
        entries: The averages by name.
        runs: The length of the run, by the name of the part.
        scopes: Which tensors belong to a part, by its name; all where it is missing.

    Attributes:
        averaged: The averages by name.
        evaluated: The names of those that are evaluated, of different tensors.
        serving: Whether ``module.state_dict()`` gives the averages.
        training: Whether training is going on: not after :meth:`leave`, until :meth:`come_back`.
    """

    def __init__(
        self,
        module: nn.Module,
        entries: Mapping[str, Entry],
        runs: Callable[[str], RunLength],
        scopes: Mapping[str, Scope] | None = None,
    ) -> None:
        self.module, self.entries = module, dict(entries)
        self._scopes = scopes or {}
        self.averaged: dict[str, Averaged] = {}
        for name, entry in entries.items():
            tensors = averaged_tensors(module, entry.average, entry.where, self._scopes.get(entry.part))
            self.averaged[name] = Averaged(entry.average, tensors, runs(entry.part), entry.where)
        self._buffers: dict[str, tuple[Tensor, dict[str, Any], str]] = {
            name: (buffer, owner._buffers, name.rpartition(".")[2]) for name, buffer, owner in saved_buffers(module)
        }
        self.evaluated = evaluated_names(entries)
        self.serving = False
        self.run: str = uuid.uuid4().hex
        self.training = True
        self._frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
        self._later: dict[str, dict[str, Tensor]] = {}  # saved averages of what is still frozen
        self._kept: dict[str, Tensor] | None = None
        self._sums: list[int] = []
        self._keep_vars = False
        self._given: set[int] = set()  # tensors whose average is in the latest state_dict
        hooked: Any = module
        self._handles: list[Any] = [
            hooked.register_state_dict_pre_hook(_Before(self)),
            hooked.register_state_dict_post_hook(_After(self)),
        ]

        hooked._solver_weight_sets = self

    @staticmethod
    def of(module: nn.Module) -> WeightSets | None:
        """The averages that a module has, whoever has made them.

        Args:
            module: The module.
        """
        found = getattr(module, "_solver_weight_sets", None)
        return found if isinstance(found, WeightSets) and found.module is module else None

    # ------------------------------------------------------------------ which set the module holds

    @property
    def begun(self) -> bool:
        """Whether there are averages to be evaluated."""
        return any(self.averaged[name].begun for name in self.evaluated)

    @property
    def protected(self) -> bool:
        """Whether what the module holds is not to stay: :meth:`protect` has kept what was there."""
        return self._kept is not None

    @property
    def shown(self) -> bool:
        """Whether the averages are in the module."""
        return any(self.averaged[name].swapped for name in self.evaluated)

    def show_average(self) -> None:
        """Put the averages that are evaluated into the module; those that have not begun are left."""
        self._show(True)

    def show_live(self) -> None:
        """Put the live weights into the module."""
        self._show(False)

    @contextmanager
    def live(self) -> Iterator[None]:
        """The live weights are in the module for a while, whatever happens in it."""
        shown = self.shown
        self.show_live()
        try:
            yield
        finally:
            if shown:
                self.show_average()

    @contextmanager
    def shown_alone(self, name: str) -> Iterator[None]:
        """One of the averages is in the module for a while, whatever happens in it.

        Args:
            name: Its name.
        """
        with self.live():
            try:
                with self.averaged[name].swapped_in():
                    reshard(self.module)
                    yield
            finally:
                reshard(self.module)

    def _show(self, average: bool) -> None:
        if average:
            self.rebind()
            if self._visited():
                return  # somebody has put another one in, and evaluates that
        changed = False
        for name in self.evaluated:
            averaged = self.averaged[name]
            if averaged.swapped != average and (averaged.begun or averaged.swapped):
                averaged.swap()
                changed = True
        if changed:
            reshard(self.module)

    # ------------------------------------------------------------------ training

    def update(self, part: str, steps: int) -> None:
        """Take in the weights after real optimiser steps.

        Args:
            part: Whose steps they are.
            steps: How many.
        """
        self.rebind()
        for name, entry in self.entries.items():
            if entry.part == part:
                self.averaged[name].update(steps)

    def take_snapshots(self, part: str, folder: Callable[[], Path], beside: Callable[[], Mapping[str, Any]]) -> None:
        """Write averages to files of their own, if it is time; a collective call where tensors are sharded.

        Args:
            part: Whose steps were made.
            folder: Gives the folder for the files; asked where it is time only, as processes may have to agree on it.
            beside: Gives what the files hold beside the weights.
        """
        for name in [name for name, entry in self.entries.items() if entry.part == part]:
            averaged = self.averaged[name]
            if not averaged.snapshot_due():
                continue
            found = dict(zip(map(id, averaged.tensors), averaged.values))
            state: dict[str, Any] = {}
            keys: list[str] = []
            for key, value in self.module.state_dict(keep_vars=True).items():
                if not isinstance(value, Tensor):
                    state[key] = value
                    continue
                keys += [key] if id(value) in found else []
                everything = whole(found.get(id(value), local(value.detach())), value)
                if everything is not None:
                    state[key] = everything.to(value.dtype)
            path = snapshot_path(folder(), name, averaged.count.steps)
            if is_first_process():
                about: dict[str, Any] = {"averaged": keys, "run": self.run, "beside": beside()}
                save_snapshot(path, state, name, averaged.average, averaged.count, **about)

    def rebind(self) -> None:
        """Average the tensors that the module has now, where it was given others (``self.buffer = ...``)."""
        new = {}
        for name, (buffer, held, leaf) in self._buffers.items():
            if held.get(leaf) is not buffer and held.get(leaf) is not None:
                new[name] = held[leaf]
                self._buffers[name] = (held[leaf], held, leaf)
        for averaged in self.averaged.values() if new else ():
            averaged.rebind(new)

    def settle(self) -> None:
        """See :meth:`Averaged.settle`."""
        for averaged in self.averaged.values():
            averaged.settle()

    def take_in_unfrozen(self) -> None:
        """Average what has been unfrozen too; until now its average was what it is."""
        unfrozen = {id(parameter) for parameter in self._frozen if parameter.requires_grad}
        if not unfrozen:
            return
        self._frozen = [parameter for parameter in self._frozen if id(parameter) not in unfrozen]
        for name, entry in self.entries.items():
            averaged = self.averaged[name]
            try:
                tensors = averaged_tensors(self.module, entry.average, entry.where, self._scopes.get(entry.part))
            except SolverError:
                continue  # it is another optimiser's turn, in which nothing that this average is of requires a gradient
            new = {inner: tensor for inner, tensor in tensors.items() if id(tensor) in unfrozen}
            averaged.add(new)
            later = {inner: value for inner, value in self._later.get(name, {}).items() if inner in new}
            if later:
                averaged.load_values(dict(zip(averaged.names, averaged.values)) | later)

    def same_module(self, module: nn.Module) -> bool:
        """Whether these are the averages of a module, and of the tensors that it still has.

        Args:
            module: The module.
        """
        if module is not self.module:
            return False
        present = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        return all(id(tensor) in present for averaged in self.averaged.values() for tensor in averaged.tensors)

    # ------------------------------------------------------------------ between runs

    def leave(self) -> None:
        """Training does not go on: note what the module holds, to see later whether somebody has written to it."""
        if not self.training and self._visited():
            return  # what was noted last is what it will hold when that one is taken out
        self.training = False
        self.rebind()
        reshard(self.module)  # a module that is evaluated last has gathered weights in the place of its own
        self._sums = _sums(self._tensors())

    def come_back(self) -> None:
        """Training goes on, and writes to the module."""
        self.training = True

    def was_written(self) -> bool:
        """Whether somebody has written other numbers into the module since :meth:`leave`; DDP writes the same ones."""
        return _sums(self._tensors()) != self._sums

    def protect(self) -> None:
        """Keep a copy of all that the module holds, for weights are about to be loaded that are not to stay."""
        if self._kept is None:
            reshard(self.module)
            named = named_tensors(self.module)
            with torch.inference_mode(False), torch.no_grad():
                self._kept = {name: local(tensor.detach()).clone() for name, tensor in named.items()}

    def unprotect(self, *, restore: bool) -> None:
        """Let go of that copy.

        Args:
            restore: Whether the module gets it back.
        """
        kept, self._kept = self._kept, None
        if kept is None or not restore:
            return
        reshard(self.module)
        with torch.inference_mode(False), torch.no_grad():
            for name, tensor in named_tensors(self.module).items():
                if name in kept:
                    local(tensor.detach()).copy_(kept[name])

    def restart(self) -> None:
        """Begin anew from what the module holds, which is the live weights from here on."""
        self._kept = None
        for averaged in self.averaged.values():
            averaged.restart()

    def to_devices(self) -> None:
        """Bring what is kept to where the module is."""
        for averaged in self.averaged.values():
            averaged.to_devices()

    def close(self) -> None:
        """Take the hooks off the module."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if WeightSets.of(self.module) is self:
            del self.module._solver_weight_sets

    # ------------------------------------------------------------------ checkpoints

    def state(self, *, sharded: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a checkpoint needs beside its ``state_dict``; a collective call where tensors are sharded.

        Args:
            sharded: Whether the checkpoint keeps the parts of sharded tensors as they are.

        Returns:
            What was counted, as plain data; and tensors, ``live`` by name and ``values`` by average and name.
        """
        self.rebind()
        served = [name for name in self.evaluated if self.averaged[name].begun]
        self._given, given = set(), self._given
        averages: dict[str, Any] = {}
        live: dict[str, Tensor] = {}
        values: dict[str, dict[str, Tensor]] = {}
        for name, averaged in self.averaged.items():
            if name in served:
                live |= _saved(averaged, averaged.weights, sharded=sharded)
            pairs = zip(averaged.values, averaged.tensors)
            exact = name in served and all(v.dtype == t.dtype and id(t) in given for v, t in pairs)
            if not exact and (averaged.begun or averaged.average.before != "follow"):
                values[name] = _saved(averaged, averaged.values, sharded=sharded)
            averages[name] = {
                "count": asdict(averaged.count),
                "names": [*averaged.names],
                "average": thaw(averaged.average),
            }
        names = {"live": [*live], "values": {name: [*tensors] for name, tensors in values.items()}}
        data = {"state_dict": served, "averages": averages, "names": names, "run": self.run}
        return data, {"live": live, "values": values}

    def targets(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a sharded checkpoint, as the places into which they are to be loaded; for :meth:`load`.

        Args:
            data: What :meth:`state` gave.
        """
        tensors = named_tensors(self.module)
        names = data["names"]
        live = {name: torch.empty_like(tensors[name].detach()) for name in names["live"] if name in tensors}
        values: dict[str, dict[str, Tensor]] = {}
        for average, inner in names["values"].items():
            if average in self.averaged:
                own = self.averaged[average]
                places = dict(zip(own.names, zip(own.values, own.tensors)))
                values[average] = {n: like(torch.empty_like(places[n][0]), places[n][1]) for n in inner if n in places}
        return {"live": live, "values": values}

    def load(self, data: Mapping[str, Any], kept: Mapping[str, Any], steps: int) -> None:
        """Go on from a checkpoint whose ``state_dict`` the module holds now.

        Args:
            data: What :meth:`state` gave; empty for a checkpoint without averages.
            kept: The tensors that it gave, or those of :meth:`targets`.
            steps: Real optimiser steps that the checkpoint was written after, if it does not say so itself.

        Raises:
            SolverError: An average that does not fit.
        """
        self._kept = None
        self.run = data.get("run", self.run)
        saved = self._alike(data.get("averages", {}))
        self._later = {name: self._unclaimed(name, data, kept) for name in saved if name in self.averaged}
        steps = max((each["count"]["steps"] for each in saved.values()), default=steps)
        buffers = {inner for inner, _, _ in saved_buffers(self.module)}
        for name, averaged in self.averaged.items():
            averaged.restart()
            if name not in saved:
                averaged.begin_late(steps)
                continue
            had = saved[name].get("names", averaged.names)
            averaged.drop([inner for inner in averaged.names if inner in buffers and inner not in had])
            if name in kept.get("values", {}):
                given = kept["values"][name]
                laid = dict(zip(averaged.names, averaged.tensors))
                averaged.load_values({n: _part(t, laid[n]) if n in laid else t for n, t in given.items()})
            averaged.count = Count(**saved[name]["count"])
        load_live(self.module, kept.get("live", {}))
        lost = [name for name in saved if name not in self.averaged]
        if lost:
            report(f"the checkpoint has averages that are not there any more, and are dropped: {', '.join(lost)}")
        late = [name for name in self.averaged if name not in saved]
        if late and steps:
            report(f"the checkpoint does not have {', '.join(late)}: averages the weights from here on")
        self._resume_from(saved)

    def _alike(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The saved averages without those that are of another kind here, which begin anew."""
        found = dict(saved)
        for name, averaged in self.averaged.items():
            kind = found.get(name, {}).get("average", {}).get("class_path")
            here = thaw(averaged.average)["class_path"]
            if kind is not None and kind != here:
                report(f"the average {name} was of another kind ({kind}) in the checkpoint: as {here} it begins anew")
                del found[name]
        return found

    def _unclaimed(self, name: str, data: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Tensor]:
        """The saved averages of tensors that are frozen as yet, for :meth:`take_in_unfrozen`."""
        tensors = named_tensors(self.module)
        given: Mapping[str, Tensor] = kept.get("values", {}).get(name, {})
        if not given and name in data["state_dict"]:
            given = {inner: tensors[inner].detach().clone() for inner in kept["live"] if inner in tensors}
        known = {*self.averaged[name].names}
        return {n: _part(value, tensors[n]) for n, value in given.items() if n in tensors and n not in known}

    def _resume_from(self, saved: Mapping[str, Any]) -> None:
        for name in self.evaluated:
            averaged = self.averaged[name]
            if name in saved and averaged.begun and averaged.average.resume_from == "average":
                found = zip(averaged.names, averaged.values, averaged.tensors)
                load_live(self.module, {inner: like(value, tensor) for inner, value, tensor in found})
                report(f"training goes on from the average {name}")

    # ------------------------------------------------------------------ not for users

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of the module has no averages: its hooks do nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()

    def _visited(self) -> bool:
        """Whether somebody has put in an average that is not one of those that are evaluated."""
        return any(averaged.swapped for name, averaged in self.averaged.items() if name not in self.evaluated)

    def _tensors(self) -> list[Tensor]:
        return [tensor for averaged in self.averaged.values() for tensor in averaged.tensors]

    def _serves(self) -> bool:
        """Whether the averages are those of what the module holds: nobody has trained or loaded it otherwise since."""
        return self.serving and self._kept is None and (self.training or not self.was_written())

    def serve(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
        """Put the averages into a ``state_dict``, and a mark that says so."""
        serves = self._serves()
        found = {
            id(tensor): like(value.to(tensor.dtype), tensor)
            for averaged in (self.averaged[name] for name in self.evaluated if serves)
            if averaged.begun and not averaged.swapped
            for tensor, value in zip(averaged.tensors, averaged.values)
        }
        shown = {id(t) for n in self.evaluated if self.averaged[n].swapped for t in self.averaged[n].tensors}
        self._given = set()
        if found or shown:
            named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
            for name, tensor in named:
                key = next((key for key in (prefix + name, prefix + own_name(name)) if key in state_dict), None)
                if key is None or id(tensor) not in found.keys() | shown:
                    continue
                state_dict[key] = found.get(id(tensor), state_dict[key])
                self._given.add(id(tensor))
        if serves and self.begun and isinstance(metadata, dict):
            metadata["lightning_solver_average"] = [n for n in self.evaluated if self.averaged[n].begun]


def evaluated_names(entries: Mapping[str, Entry]) -> tuple[str, ...]:
    """The names of the averages that are evaluated: at most one of each part.

    Args:
        entries: The averages by name.

    Raises:
        SolverError: It is not clear which one.
    """
    parts = dict.fromkeys(entry.part for entry in entries.values())
    found = [find_evaluated({n: e.average for n, e in entries.items() if e.part == part}) for part in parts]
    return tuple(name for name in found if name is not None)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module, each once, by their names in the user's module."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {own_name(name): tensor for name, tensor in named}


def load_live(module: nn.Module, live: Mapping[str, Tensor]) -> None:
    """Write live weights into a module.

    Args:
        module: The module.
        live: Name -> tensor, whole or sharded.

    Raises:
        SolverError: A tensor that the module does not have, or of another shape.
    """
    tensors = named_tensors(module)
    for name, value in live.items():
        if name not in tensors or tensors[name].shape != value.shape:
            got = f"{tuple(tensors[name].shape)} here" if name in tensors else "no such tensor here"
            what = "the live weights of the checkpoint do not fit the module"
            do = "resume the model that was saved"
            raise SolverError(name, what, got=f"{tuple(value.shape)} there, {got}", do=do)
    with torch.inference_mode(False), torch.no_grad():
        for name, value in live.items():
            local(tensors[name].detach()).copy_(_part(value, tensors[name]))
    if live:
        reshard(module)


def _part(value: Tensor, tensor: Tensor) -> Tensor:
    """The part of this process of a value that is whole or sharded."""
    if is_sharded(value) or not is_sharded(tensor):
        return local(value)
    return part_of(value, tensor) if value.shape == tensor.shape else value  # one that does not fit is refused later


def _saved(averaged: Averaged, parts: list[Tensor], *, sharded: bool) -> dict[str, Tensor]:
    """Tensors by name, as a checkpoint keeps them."""
    found: dict[str, Tensor] = {}
    for name, part, tensor in zip(averaged.names, parts, averaged.tensors):
        kept = like(part, tensor) if sharded else whole(part, tensor)
        if kept is not None:
            found[name] = kept
    return found


def _sums(tensors: Iterable[Tensor]) -> list[int]:
    """Sums over the bits of tensors, the same on every device, that tell other numbers, and another order, apart."""
    found = []
    for tensor in tensors:
        part = local(tensor.detach()).contiguous().flatten()
        size = part.element_size()
        bits = part.view(torch.int32 if size % 4 == 0 else torch.int16 if size == 2 else torch.uint8)
        found += [int(each.sum(dtype=torch.int64)) for each in (bits, bits[::7])]
    return found


def _nothing() -> None:
    """What a pickled module has in place of its averages."""


class _Before:
    """Notes before a ``state_dict`` is made whether it is to have the variables themselves."""

    def __init__(self, sets: WeightSets | None) -> None:
        self.sets = sets

    def __call__(self, module: nn.Module, prefix: str, keep_vars: bool) -> None:
        if self.sets is not None:
            self.sets._keep_vars = keep_vars


class _After:
    """Puts the averages into a ``state_dict``; torch sets an attribute on it."""

    def __init__(self, sets: WeightSets | None) -> None:
        self.sets = sets

    def __call__(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
        if self.sets is not None and not self.sets._keep_vars:
            self.sets.serve(module, state_dict, prefix, local_metadata)
