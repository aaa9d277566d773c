"""The parameters of a module as data: every name, the module that holds it, its kinds.

Names are those of the user's own module: what DDP, FSDP, ``torch.compile`` and activation checkpointing put in between
is taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_solver.errors import SolverError
from lightning_solver.rules.kinds import kinds_of

_WRAPPERS = frozenset({"_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module", "_forward_module"})


@dataclass(frozen=True)
class Place:
    """One name under which a parameter can be found.

    Args:
        name: Qualified name in the user's module, such as ``backbone.0.weight``.
        owner: The module that holds it directly.
        leaf: Its own name in that module, such as ``weight``.
        tensor: The parameter.
    """

    name: str
    owner: nn.Module
    leaf: str
    tensor: Tensor

    @cached_property
    def kinds(self) -> frozenset[str]:
        """What the parameter is, seen from this place."""
        owner_name = self.name.removesuffix(self.leaf).rstrip(".").rpartition(".")[2]
        return kinds_of(self.owner, self.leaf, self.tensor, owner_name)

    @cached_property
    def classes(self) -> frozenset[str]:
        """Names, plain and dotted, of the owner's class and its bases."""
        found = set()
        for cls in type(self.owner).__mro__:
            found |= {cls.__name__, f"{cls.__module__}.{cls.__qualname__}"}
            if cls.__module__.startswith("torch.nn."):
                found |= {f"torch.nn.{cls.__name__}", f"nn.{cls.__name__}"}
        return frozenset(found)


@dataclass
class Parameter:
    """A parameter and every name that it has, first name first."""

    tensor: Tensor
    places: list[Place] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first name, the one in ``module.named_parameters()``."""
        return self.places[0].name


def take_inventory(module: nn.Module) -> list[Parameter]:
    """Every parameter of ``module``, in the order of ``module.named_parameters()``, each tensor once.

    Raises:
        SolverError: A parameter that has no shape yet (lazy modules).
    """
    found: dict[int, Parameter] = {}
    for place in _places(module):
        if isinstance(place.tensor, UninitializedParameter):
            do = "run a batch through the model before training starts (in setup or configure_model)"
            raise SolverError(place.name, "the parameter is not initialised yet", got=type(place.owner).__name__, do=do)
        found.setdefault(id(place.tensor), Parameter(place.tensor)).places.append(place)
    return list(found.values())


def is_flattened(module: nn.Module) -> bool:
    """Whether FSDP1 has flattened parameters of ``module``, so that their shapes are no longer the model's."""
    return any(cls.__name__ == "FullyShardedDataParallel" for m in module.modules() for cls in type(m).__mro__)


def flat_parameters(parameters: list[Parameter]) -> list[str]:
    """Names of the parameters that hold several of the model's in one, as FSDP1 makes with use_orig_params=False."""
    return [
        p.name for p in parameters if type(p.tensor).__name__ == "FlatParameter" or p.places[0].leaf == "_flat_param"
    ]


def _places(module: nn.Module) -> Iterator[Place]:
    clean: dict[str, str] = {"": ""}
    modules: dict[str, nn.Module] = {"": module}
    for path, owner in module.named_modules(remove_duplicate=False):
        if path:
            parent, _, segment = path.rpartition(".")
            inside = clean[parent]
            if not _is_wrapper(segment, modules[parent]):
                inside = f"{inside}.{segment}" if inside else segment
            clean[path], modules[path] = inside, owner
        prefix = clean[path]
        for leaf, tensor in owner.named_parameters(recurse=False, remove_duplicate=False):
            yield Place(f"{prefix}.{leaf}" if prefix else leaf, owner, leaf, tensor)


def _is_wrapper(segment: str, parent: nn.Module) -> bool:
    if segment in _WRAPPERS:
        return True
    return segment == "module" and isinstance(parent, (nn.parallel.DistributedDataParallel, nn.DataParallel))
