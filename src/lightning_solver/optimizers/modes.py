"""Optimisers with ``train()`` and ``eval()``: they step at one point of the weights and are evaluated at another.

A schedule-free optimiser (Defazio et al. 2024) takes gradients at y and is evaluated at x, an average; both are kept in
the parameters, one at a time. Its own switch computes one from the other, and rounding makes of y -> x -> y another y.
Here y is set aside while x is in the parameters, and comes back bit by bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from lightning_solver.logs import report
from lightning_solver.sharding import is_sharded, local, reshard

POINT = "lightning_solver_point"
"""The name under which the state of a parameter holds the point where training goes on, in saved optimiser state."""


def has_modes(optimizer: Any) -> bool:
    """Whether an optimiser has to be told when it trains and when it is evaluated.

    Example:
        >>> has_modes(torch.optim.SGD([torch.zeros(1)]))
        False
    """
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def schedule_free_notes(cls: type, curves: Mapping[str, Any]) -> list[str]:
    """What is odd about the schedules of a schedule-free optimiser.

    Args:
        cls: The optimiser's class; of others than schedule-free ones there is nothing to say.
        curves: The scheduled options and their values over the run, in order: of shape (steps,) or (steps, groups).

    Returns:
        One sentence for each thing that is odd.

    Example:
        >>> class SGDScheduleFree: ...
        >>> schedule_free_notes(SGDScheduleFree, {"lr": [0.1, 0.2, 0.2]})
        []
        >>> schedule_free_notes(SGDScheduleFree, {"lr": [0.2, 0.1]})  # doctest: +ELLIPSIS
        ['lr falls in the course of the run: ...']
    """
    if "schedulefree" not in cls.__name__.replace("_", "").casefold():
        return []
    notes = []
    if "lr" in curves and bool((np.diff(np.asarray(curves["lr"], dtype=np.float64), axis=0) < 0).any()):
        why = "averages instead of decaying, and needs no more than a warm-up (Defazio et al. 2024)"
        notes.append(f"lr falls in the course of the run: {cls.__name__} {why}")
    for option in ("momentum", "betas"):
        if option in curves:
            why = "works out the evaluated weights by the present value as if it had been the same in the last step"
            notes.append(f"{option} is scheduled: {cls.__name__} {why}")
    return notes


class ModeSwitch:
    """Switches optimisers between the weights that are trained and those that are evaluated.

    While the weights are the trained ones, ``module.state_dict()`` and ``optimizer.state_dict()`` are still those of
    the evaluated point: it is worked out, copied, and the trained weights come back bit by bit. The optimiser's state
    then also holds the trained weights, as ``POINT`` in the state of each parameter, and loading takes them out again,
    so that training goes on as if it had never stopped. Where they are missing the optimiser's own ``train()`` works
    them out. ``state_dict(keep_vars=True)`` and submodules give the weights as they are.

    Memory: one copy of the weights while they are evaluated, two while a state dict is made in training.

    Args:
        optimizers: The optimisers; those without modes are left alone.
        module: The module of the parameters, whose ``state_dict`` is given hooks. ``None``: none.

    Attributes:
        optimizers: Those that have modes.
        module: The module.
        training: Whether the trained weights are in the parameters; ``None``: as the optimisers themselves have it.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> switch = ModeSwitch([torch.optim.SGD(net.parameters())], net)
        >>> switch.optimizers
        ()
    """

    def __init__(self, optimizers: Iterable[Any] = (), module: nn.Module | None = None) -> None:
        self.optimizers: tuple[Any, ...] = tuple(optimizer for optimizer in optimizers if has_modes(optimizer))
        self.module = module
        self.training: bool | None = None
        self._held: dict[Tensor, Tensor] = {}
        self._left: dict[Tensor, int] = {}
        self._handles: list[Any] = []
        self._watching: list[Any] = []
        self._asides: dict[object, Any] = {}
        self._fresh = {id(optimizer) for optimizer in self.optimizers if not any(optimizer.state.values())}
        self._hookless: list[Any] = []
        self._loaded: dict[int, list[Tensor] | None] = {}
        for optimizer in self.optimizers:
            self._watch(optimizer)
        self.open()

    def __deepcopy__(self, memo: dict[int, Any]) -> ModeSwitch:
        """A copy of the module has no optimisers: its hooks do nothing."""
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    # ------------------------------------------------------------------ the switch

    def train(self) -> None:
        """Put the trained weights into the parameters: bit by bit those that ``eval`` set aside or a file held.

        Weights that have been written to since ``eval``, by loading others for instance, are taken as new evaluated
        ones.
        """
        self._asides.clear()
        if not self.training:
            self._to_train()
            self._reshard()

    def eval(self) -> None:
        """Put the evaluated weights into the parameters, and set the trained ones aside."""
        self._asides.clear()
        if self.training is not False:
            self._to_eval()
            self._reshard()

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[Mapping[Tensor, Tensor]]:
        """The evaluated weights for a while; then the weights are as they were, and autograd sees no change.

        Yields:
            The trained weights of each parameter that is as ``eval`` has left it.
        """
        key = object()
        self._set_aside(key)
        try:
            yield {parameter: point for parameter, point in self._held.items() if self._is_left(parameter)}
        finally:
            self._come_back(key)

    def to_devices(self) -> None:
        """Bring the weights that are set aside to where their parameters are."""
        with _plainly():
            self._held = {p: y if y.device == p.device else y.to(p.device) for p, y in self._held.items()}

    # ------------------------------------------------------------------ state

    def open(self) -> None:
        """Give the module its hooks; again after ``close``."""
        if self.module is not None and self.optimizers and not self._handles:
            module: Any = self.module
            self._handles = [
                module.register_state_dict_pre_hook(self._before_module),
                module.register_state_dict_post_hook(_After(self)),
            ]

    def close(self) -> None:
        """Take the hooks off the module; the optimisers keep theirs."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def release(self) -> None:
        """Take every hook away: the optimisers are done with, or another switch is to have them."""
        self.close()
        for handle in self._watching:
            handle.remove()
        self._watching = []

    def own_state(self, states: list[Any], places: Mapping[int, int]) -> dict[int, list[Tensor]]:
        """The state of optimisers that cannot be given hooks, as wrappers that are no ``Optimizer`` underneath.

        Args:
            states: The saved state of all optimisers; that of hookless ones is replaced by that of the evaluated point.
            places: Of each optimiser, by its ``id``, its place in ``states``.

        Returns:
            By place, the trained weights in the order of the optimiser's parameters.
        """
        points: dict[int, list[Tensor]] = {}
        for optimizer in self._hookless:
            place = places[id(optimizer)]
            with self.evaluated() as held:
                states[place] = _unlinked(optimizer.state_dict())
                points[place] = [held.get(p, p).detach().clone() for p in _parameters(optimizer)]
        return points

    def take_own(self, optimizer: Any, points: list[Tensor] | None) -> None:
        """Have the trained weights of a hookless optimiser that was loaded.

        Args:
            optimizer: The optimiser.
            points: What ``own_state`` gave for it; ``None``: the file has none.
        """
        self._after_load(optimizer)
        self._loaded[id(optimizer)] = points

    @property
    def hookless(self) -> tuple[Any, ...]:
        """Optimisers that cannot be given hooks."""
        return tuple(self._hookless)

    # ------------------------------------------------------------------ not for users

    def _watch(self, optimizer: Any) -> None:
        if not hasattr(optimizer, "_optimizer_state_dict_pre_hooks"):  # its __init__ did not call torch's
            self._hookless.append(optimizer)
            self._fresh.discard(id(optimizer))
            return
        self._watching += [
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_pre_hook(self._before_optimizer),
            optimizer.register_state_dict_post_hook(self._after_optimizer),
            optimizer.register_load_state_dict_post_hook(self._after_load),
        ]

    def _call(self, optimizer: Any, mode: str) -> None:
        """Switch an optimiser; one that has made no step has only a flag to set, and some fail for lack of state."""
        groups = [(group, group["params"]) for group in optimizer.param_groups]
        if id(optimizer) in self._fresh:
            for group, _ in groups:
                group["params"] = []
        try:
            getattr(optimizer, mode)()
        finally:
            for group, parameters in groups:
                group["params"] = parameters

    def _to_train(self) -> None:
        self._collect()
        with _plainly():
            written = {p for p in self._held if not self._is_left(p)}
            self.training = None
            for optimizer in self.optimizers:
                self._call(optimizer, "train")
            for parameter, point in self._held.items():
                if parameter not in written:
                    parameter.copy_(point)
        self._held, self._left, self.training = {}, {}, True
        if written:
            report(f"{len(written)} parameters were written to while they were evaluated: training goes on from there")

    def _to_eval(self) -> None:
        if self.training is None or any(_says(optimizer) is False for optimizer in self.optimizers):
            self._to_train()
        with _plainly():
            self._held = {p: p.detach().clone() for optimizer in self.optimizers for p in _parameters(optimizer)}
            self.training = None  # until all is done: if this is interrupted, the weights set aside come back
            for optimizer in self.optimizers:
                self._call(optimizer, "eval")
            self._left = {parameter: _version(parameter) for parameter in self._held}
            self.training = False

    def _is_left(self, parameter: Tensor) -> bool:
        """Whether the evaluated weights of a parameter are those that ``eval`` has left there."""
        return self.training is not False or _version(parameter) == self._left.get(parameter)

    def _reshard(self) -> None:
        """FSDP2 may still hold gathered weights of before; the next forward gathers them anew."""
        if self.module is not None:
            reshard(self.module)

    def _set_aside(self, key: object) -> None:
        """The evaluated weights until ``_come_back``, if the trained ones are there."""
        if self.training is False:
            return
        if self.training is None:
            self._to_train()
        plain = tuple(p for o in self.optimizers for p in _parameters(o) if not is_sharded(p))
        # The weights come back bit by bit, so that a graph that was recorded with them stays valid.
        self._asides[key] = _unsafe_preserve_version_counter(plain)
        self._to_eval()

    def _come_back(self, key: object) -> None:
        aside = self._asides.pop(key, None)
        if aside is not None:
            with aside:
                self._to_train()

    def _before_module(self, module: nn.Module, prefix: str, keep_vars: bool) -> None:
        if self.optimizers and self.training and not keep_vars:
            self._set_aside("module")

    def _after_module(self, module: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
        if "module" not in self._asides:
            return
        ours = set(self._held)
        spared = {prefix + name for name, p in module.named_parameters(remove_duplicate=False) if p not in ours}
        spared |= {prefix + name for name, _ in module.named_buffers(remove_duplicate=False)}
        copies: dict[tuple[Any, ...], Tensor] = {}
        with _plainly():
            for name, value in state_dict.items():
                if isinstance(value, Tensor) and name.startswith(prefix) and name not in spared:
                    part = local(value)
                    same = (part.data_ptr(), part.shape, part.stride(), part.dtype)  # tied ones stay tied
                    if same not in copies or not part.numel():
                        copies[same] = value.detach().clone()
                    state_dict[name] = copies[same]
        self._come_back("module")

    def _before_optimizer(self, optimizer: Any) -> None:
        if self.training and id(optimizer) not in self._fresh:
            self._set_aside(id(optimizer))

    def _after_optimizer(self, optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        if self.training is not False:
            return state_dict
        state = {index: dict(kept) for index, kept in state_dict["state"].items()}
        for group, packed in zip(optimizer.param_groups, state_dict["param_groups"]):
            for parameter, index in zip(group["params"], packed["params"]):
                point = self._held.get(parameter)
                if point is None or not self._is_left(parameter):
                    continue
                if index in state or not torch.equal(local(point), local(parameter.detach())):
                    state.setdefault(index, {})[POINT] = point
        state_dict = {**state_dict, "state": state}
        self._come_back(id(optimizer))
        return state_dict

    def _after_load(self, optimizer: Any) -> None:
        if any(optimizer.state.values()):
            self._fresh.discard(id(optimizer))
            self._loaded[id(optimizer)] = None  # what was loaded is looked at later: the class may not be done with it
        mine = set(_parameters(optimizer))
        self._held = {parameter: point for parameter, point in self._held.items() if parameter not in mine}
        self._left, self.training = {}, None

    def _collect(self) -> None:
        """Take the trained weights out of state that was loaded."""
        loaded, self._loaded = self._loaded, {}
        for optimizer in self.optimizers:
            if id(optimizer) not in loaded:
                continue
            given = loaded[id(optimizer)]
            points = {} if given is None else dict(zip(_parameters(optimizer), given))
            for parameter in _parameters(optimizer):
                state = optimizer.state.get(parameter)
                if state and POINT in state:
                    points[parameter] = state.pop(POINT)
                    if not state:
                        del optimizer.state[parameter]
            if not points:
                name = type(optimizer).__name__
                report(f"the checkpoint does not hold the weights at which {name} trains: it works them out itself")
            self._held.update(points)

    def _after_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._fresh.discard(id(optimizer))


class _After:
    """A hook that torch can set an attribute on, as it wants to."""

    def __init__(self, switch: ModeSwitch) -> None:
        self.switch = switch

    def __call__(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
        self.switch._after_module(module, state_dict, prefix)


def _parameters(optimizer: Any) -> list[Tensor]:
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def _version(tensor: Tensor) -> int:
    """A count of the writes into a tensor."""
    return local(tensor.detach())._version


def _says(optimizer: Any) -> bool | None:
    """What an optimiser itself says about its mode, where it does."""
    flags = [group["train_mode"] for group in optimizer.param_groups if "train_mode" in group]
    if not flags and isinstance(getattr(optimizer, "train_mode", None), bool):
        flags = [optimizer.train_mode]
    return all(flags) if flags else None


def _unlinked(state: Any) -> Any:
    """Saved state in mappings of its own: the optimiser's may change when it is switched."""
    return {key: _unlinked(value) for key, value in state.items()} if isinstance(state, dict) else state


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Neither gradients nor inference mode: what is made here may be trained on later."""
    with torch.inference_mode(False), torch.no_grad():
        yield
