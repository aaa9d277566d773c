"""The parameters of a module as data: every name, the modules around it, its kinds.

Names are those of the user's own module: what DDP, FSDP, ``torch.compile`` and activation checkpointing put in between
is taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_solver.errors import SolverError
from lightning_solver.rules.kinds import is_norm, kinds_of, shape_of

_WRAPPERS = frozenset({"_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module", "_forward_module"})


class Holder:
    """A module that holds parameters, and where it stands.

    Args:
        module: The module.
        path: Its qualified name in the user's module; ``""`` for that module itself.
        parent: The module around it; ``None`` for the outermost.

    Attributes:
        module: The module.
        path: Its qualified name.
        parent: The module around it.
        own_name: The last part of its qualified name.
    """

    def __init__(self, module: nn.Module, path: str, parent: Holder | None) -> None:
        self.module, self.path, self.parent = module, path, parent
        self.own_name = path.rpartition(".")[2]
        self._norm: bool | None = None

    @property
    def is_norm(self) -> bool:
        """Whether it is a normalisation layer."""
        if self._norm is None:
            self._norm = is_norm(self.module)
        return self._norm

    @property
    def classes(self) -> frozenset[str]:
        """Names, plain and dotted, of its class and the bases."""
        return class_names(type(self.module))

    @cached_property
    def classes_around(self) -> frozenset[str]:
        """Names of its class and of the classes of every module around it, with their bases."""
        return self.classes if self.parent is None else self.classes | self.parent.classes_around

    def outward(self) -> Iterator[Holder]:
        """This module and every one around it, from inside to outside."""
        holder: Holder | None = self
        while holder is not None:
            yield holder
            holder = holder.parent


def class_names(cls: type) -> frozenset[str]:
    """Names, plain and dotted, of a class and its bases."""
    if cls not in _CLASS_NAMES:
        found = set()
        for base in cls.__mro__:
            found |= {base.__name__, f"{base.__module__}.{base.__qualname__}"}
            if base.__module__.startswith("torch.nn."):
                found |= {f"torch.nn.{base.__name__}", f"nn.{base.__name__}"}
        _CLASS_NAMES[cls] = frozenset(found)
    return _CLASS_NAMES[cls]


_CLASS_NAMES: dict[type, frozenset[str]] = {}


class Place:
    """One name under which a parameter can be found.

    Args:
        name: Qualified name in the user's module, such as ``backbone.0.weight``.
        holder: The module that holds it directly.
        leaf: Its own name in that module, such as ``weight``.
        tensor: The parameter.

    Attributes:
        name: Qualified name in the user's module.
        holder: The module that holds it directly, and what is around it.
        leaf: Its own name in that module.
        tensor: The parameter.
    """

    __slots__ = ("_kinds", "holder", "leaf", "name", "tensor")

    def __init__(self, name: str, holder: Holder, leaf: str, tensor: Tensor) -> None:
        self.name, self.holder, self.leaf, self.tensor = name, holder, leaf, tensor
        self._kinds: frozenset[str] | None = None

    @property
    def owner(self) -> nn.Module:
        """The module that holds it directly."""
        return self.holder.module

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that it has in the model."""
        return shape_of(self.tensor)

    @property
    def kinds(self) -> frozenset[str]:
        """What the parameter is, seen from this place by itself."""
        if self._kinds is None:
            holder = self.holder
            parent = None if holder.parent is None else holder.parent.module
            self._kinds = kinds_of(
                holder.module, self.leaf, self.tensor, holder.own_name, parent=parent, norm=holder.is_norm
            )
        return self._kinds


class Parameter:
    """A parameter and every name that it has.

    Args:
        first: Its first name, the one in ``module.named_parameters()``.

    Attributes:
        tensor: The parameter.
        name: Its first name.
        places: All of its names, the first one first.
    """

    __slots__ = ("name", "places", "tensor")

    def __init__(self, first: Place) -> None:
        self.tensor, self.name, self.places = first.tensor, first.name, [first]


def take_inventory(module: nn.Module) -> list[Parameter]:
    """Every parameter of ``module``, in the order of ``module.named_parameters()``, each tensor once.

    Raises:
        SolverError: A parameter that has no shape yet (lazy modules).
    """
    found: dict[int, Parameter] = {}
    for place in _places(module):
        if type(place.tensor) is not nn.Parameter and isinstance(place.tensor, UninitializedParameter):
            do = "run a batch through the model before training starts (in setup or configure_model)"
            raise SolverError(place.name, "the parameter is not initialised yet", got=type(place.owner).__name__, do=do)
        known = found.get(id(place.tensor))
        if known is None:
            found[id(place.tensor)] = Parameter(place)
        else:
            known.places.append(place)
    return list(found.values())


def own_name(name: str) -> str:
    """The name that something has in the user's own module, wrappers taken out.

    Example:
        >>> own_name("net._orig_mod.0.weight")
        'net.0.weight'
    """
    return ".".join(segment for segment in name.split(".") if segment not in _WRAPPERS)


def is_flattened(module: nn.Module) -> bool:
    """Whether FSDP1 has flattened parameters of ``module``, so that their shapes are no longer the model's."""
    classes = {type(inner) for inner in module.modules()}
    return any(base.__name__ == "FullyShardedDataParallel" for cls in classes for base in cls.__mro__)


def flat_parameters(parameters: list[Parameter]) -> list[str]:
    """Names of the parameters that hold several of the model's in one, as FSDP1 makes with use_orig_params=False."""
    return [
        p.name for p in parameters if type(p.tensor).__name__ == "FlatParameter" or p.places[0].leaf == "_flat_param"
    ]


def _places(module: nn.Module) -> Iterator[Place]:
    """Every name of every parameter, in the order of ``named_parameters``; a module is entered at each of its names."""
    waiting = [Holder(module, "", None)]
    while waiting:
        holder = waiting.pop()
        owner, path = holder.module, holder.path
        prefix = f"{path}." if path else ""
        for leaf, tensor in owner._parameters.items():
            if tensor is not None:
                yield Place(prefix + leaf, holder, leaf, tensor)
        inner = [
            Holder(child, path if _is_wrapper(segment, owner) else prefix + segment, holder)
            for segment, child in owner._modules.items()
            if child is not None
        ]
        waiting.extend(reversed(inner))


def _is_wrapper(segment: str, parent: nn.Module) -> bool:
    if segment in _WRAPPERS:
        return True
    return segment == "module" and isinstance(parent, (nn.parallel.DistributedDataParallel, nn.DataParallel))
