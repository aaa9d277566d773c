"""Which parameters belong to the layer that gives the output, and which are hidden matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from lightning_solver.errors import SolverError
from lightning_solver.rules.inventory import Parameter, Place

_ASKED = ("get_classifier", "get_output_embeddings")  # timm's and transformers' own word
_NAMES = frozenset(
    {"head", "heads", "classifier", "lm_head", "cls_head", "head_dist", "output_layer", "qa_outputs", "fc_out"}
)
_NO_MATRIX = frozenset({"bias", "norm", "embedding", "position", "token", "offset", "flat"})


def find_heads(parameters: Sequence[Parameter]) -> frozenset[int]:
    """``id`` of each tensor that belongs to the layer that gives the output.

    What the model's own method says (``get_classifier``, ``get_output_embeddings``), and modules with the usual names
    outside of repeated blocks and of that model (``head``, ``classifier``, ``lm_head``, ...); without either, the last
    linear layer.
    """
    places = [place for parameter in parameters for place in parameter.places]
    told, inside = _told(places)
    named = {id(place.tensor) for place in places if id(place.tensor) not in inside and _named(place)}
    if told or named:
        return frozenset(told | named)
    last = next((place.holder for place in reversed(places) if isinstance(place.owner, nn.Linear)), None)
    return frozenset(id(place.tensor) for place in places if last is not None and place.holder is last)


def is_hidden(parameter: Parameter, heads: frozenset[int]) -> bool:
    """Whether a parameter is a hidden matrix: two dimensions, and under none of its names anything else."""
    if len(parameter.places[0].shape) != 2 or id(parameter.tensor) in heads:
        return False
    return not any(place.kinds & _NO_MATRIX for place in parameter.places)


def _told(places: Iterable[Place]) -> tuple[set[int], set[int]]:
    """What the outermost modules say that have one of the methods, and all that lies in those that say something."""
    asked: dict[int, bool] = {}
    found: set[int] = set()
    inside: set[int] = set()
    for place in places:
        for holder in reversed(list(place.holder.outward())):
            if id(holder.module) in asked:
                if asked[id(holder.module)]:
                    break
                continue
            method = next((m for name in _ASKED if callable(m := getattr(holder.module, name, None))), None)
            asked[id(holder.module)] = method is not None
            if method is not None:
                told = {id(t) for head in _modules(_answer(holder.module, method)) for t in head.parameters()}
                if told:
                    inside.update(id(tensor) for tensor in holder.module.parameters())
                found |= told
                break
    return found, inside


def _answer(module: nn.Module, method: Callable[[], object]) -> object:
    try:
        return method()
    except Exception as error:  # whatever a user's method may raise
        name = f"{type(module).__name__}.{getattr(method, '__name__', 'get_classifier')}"
        do = "let it return the module of the head without arguments, or select by name instead of kind head or hidden"
        got = f"{type(error).__name__}: {error}"
        raise SolverError(name, "failed, where it is asked which layer gives the output", got=got, do=do) from error


def _modules(answer: object) -> list[nn.Module]:
    given = answer if isinstance(answer, (list, tuple)) else [answer]
    return [module for module in given if isinstance(module, nn.Module)]


def _named(place: Place) -> bool:
    segments = place.holder.path.split(".")
    at = next((i for i, segment in enumerate(segments) if segment in _NAMES), None)
    return at is not None and not any(segment.isdigit() for segment in segments[:at])
