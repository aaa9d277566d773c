"""How deep in the network each parameter lies, for layer-wise decay, gradual unfreezing and rules by depth.

Depth 0 is nearest the input; the head is at the top. A layer-wise decay multiplies the learning rate of a parameter by
``max(min_scale, rate ** (top - depth))`` (Howard and Ruder 2018, ULMFiT; Clark et al. 2020, ELECTRA; Bao et al. 2021,
BEiT). Frozen parameters have a depth like all others, so that thawing or freezing one moves no other.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_solver.errors import SolverError, nearest, suggestion
from lightning_solver.rules.inventory import Parameter, take_inventory
from lightning_solver.rules.layouts import FAMILIES, LAYOUTS, Numbers, equal_groups, group_depths, recognise

KNOWN: tuple[str, ...] = ("auto", "group_matcher", "method", *(key for key in FAMILIES if key != "auto"), *LAYOUTS)
"""Every name that ``how`` may have; see ``find_depths``."""

_COUNTED = tuple(key for key in KNOWN if any(LAYOUTS[k].counted for k in FAMILIES.get(key, (key,)) if k in LAYOUTS))
_METHODS = {"group_matcher": ("group_matcher",), "method": ("get_layer_depth",)}
_OWN_WORD = {
    "auto": ("group_matcher", "get_layer_depth"),
    "timm": ("group_matcher",),
    "mmpretrain": ("get_layer_depth",),
}
_WAYS_OUT = (
    "name the layout ({known}), give a list of regexes from the input to the head, "
    "or give the model a method get_layer_depth(name) -> int"
)


@dataclass(frozen=True)
class Depths:
    """The depth of every parameter.

    Args:
        of: Qualified first name to depth, 0 nearest the input, in the order of the inventory.
        top: The depth whose layer-decay scale is 1. No depth is greater, but where a peer's layout was given a number
            of layers smaller than the model has; ``source`` then says so.
        source: In words, how the depths were found.
        unmatched: In words, what no regex of the user is found in; ``None`` where there is nothing to say.
    """

    of: Mapping[str, int]
    top: int
    source: str
    unmatched: str | None = None


def find_depths(
    module: nn.Module, parameters: Sequence[Parameter], how: str | Sequence[str] = "auto", where: str = "depth"
) -> Depths:
    r"""The depth of each parameter of ``module``.

    A tied parameter has the depth of its first name. Where the model is a part of ``module``, as in a LightningModule
    that holds it beside a loss, whatever lies outside the part is at the top; and one above it where the part has no
    head of its own.

    Args:
        module: The module whose parameters they are.
        parameters: Its inventory.
        how: One of ``KNOWN``, or a list of regexes.

            - ``auto``: the model's own word, ``group_matcher`` or else ``get_layer_depth``, of the outermost module
              that has either; without any, one of ``convnext``, ``hf``, ``resnet``, ``swin``, ``vit`` and mmpretrain's
              ViT and Swin, if the names fit exactly one model.
            - ``group_matcher``: the method of timm's models, with timm's grouping.
            - ``method``: ``get_layer_depth(name)``, which returns a depth, and the greatest is the top; or a pair
              (depth, number of layers) as in mmpretrain, and the top is the number less one.
            - ``vit``, ``beit``, ``hf``: the stem (tokens, positions, embeddings) is 0, block ``i`` is ``i + 1``, the
              final norm and the head are the top. ``swin``: as ``vit``, blocks counted through all stages.
              ``resnet``: the same by blocks. ``convnext``: the stages with the third in threes of blocks.
            - ``timm``, ``mmpretrain``: what that library does: the model's own word, else the layout that its names
              show (``timm_...``, ``mmpretrain_...``, which may also be named). A model that timm does not know has
              twelve tensors to a layer, as there.
            - ``mmseg_layer_wise``, ``mmseg_stage_wise`` (with ``_convnext`` or ``_vit``: only these backbones),
              ``detectron2_vit``: what those do with the part called ``backbone``. A number of layers may follow,
              as in ``mmseg_layer_wise:6``: the ``num_layers`` of their configuration. Without it the model's names
              say it.
            - Regexes, from the input to the head: the depth of a name is the place of the first one that is found
              in it. One that captures a number takes as many depths as there are numbers, in their order:
              ``["embed", r"layers\.(\d+)\."]`` has the embeddings at 0 and layer ``i`` at ``i + 1``. Names in which
              none is found are at the top, one above the last; if there are none, the last is the top.
        where: What errors call the setting.

    Returns:
        The depths of all parameters, frozen ones too. Where several modules side by side have their own word, they
        share the top, and the shallower ones begin above 0.

    Raises:
        SolverError: An unknown name; the model is not recognised, or several are; its own word cannot be used; a regex
            that is malformed or is found nowhere.
    """
    if not isinstance(how, str):
        return _by_patterns([p.name for p in parameters], how, where)
    key, layers = _parse(how, where)
    if key in _OWN_WORD or key in _METHODS:
        told = _by_own_word(module, parameters, (_OWN_WORD | _METHODS)[key], where)
        if told is not None:
            return told
    if key in _METHODS:
        method = _METHODS[key][0]
        do = f"write the method, or {_ways_out()}"
        raise SolverError(where, f"no part of the model has a method {method}", got=type(module).__name__, do=do)
    return _by_layout(module, parameters, key, layers, where)


def check_how(how: str | Sequence[str], where: str = "depth") -> None:
    """Refuse a way to find depths that is not known, whether depths are asked for or not.

    Raises:
        SolverError: It is not one of ``KNOWN``.
    """
    if isinstance(how, str):
        _parse(how, where)


def _parse(how: str, where: str) -> tuple[str, int | None]:
    key, colon, number = how.partition(":")
    if key not in KNOWN:
        do = f"{suggestion(key, KNOWN)} Regexes come as a list" if nearest(key, KNOWN) else _ways_out()
        raise SolverError(where, "unknown way to find the depth of a parameter", got=repr(how), do=do)
    if not colon:
        return key, None
    if key not in _COUNTED:
        do = f"write {key}; a number goes with {', '.join(_COUNTED)}"
        raise SolverError(where, f"{key} takes no number of layers", got=repr(how), do=do)
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise SolverError(
            where, "the number of layers must be a whole number >= 1", got=repr(how), do=f"as in {key}:12"
        )
    return key, int(number)


def _ways_out() -> str:
    named = [key for key in (*LAYOUTS, *FAMILIES) if key != "auto" and (key in FAMILIES or "_" not in key)]
    return _WAYS_OUT.format(known=", ".join(named))


def _by_own_word(
    module: nn.Module, parameters: Sequence[Parameter], methods: tuple[str, ...], where: str
) -> Depths | None:
    """What the outermost modules that have one of ``methods`` say; ``None`` where there is no such module."""
    told: dict[tuple[int, str], tuple[int, int]] = {}  # (owner, leaf) -> depth, and the top beside it
    words, headless = [], True
    for speaker, method in _speakers(module, methods):
        local = parameters if speaker is module else take_inventory(speaker)
        if not local:
            continue
        depths, top = _ask(speaker, method, [p.name for p in local], where)
        words.append(f"{method} of {type(speaker).__name__}")
        headless = headless and method == "group_matcher" and _is_headless(speaker, [p.name for p in local])
        for parameter, depth in zip(local, depths):
            for place in parameter.places:
                told[id(place.owner), place.leaf] = (top if depth is None else depth), top
    if not words:
        return None
    highest = max(top for _, top in told.values())
    first = {p.name: told.get((id(p.places[0].owner), p.places[0].leaf)) for p in parameters}
    # What lies beside a model without a head of its own is its head, and above its last block.
    outside = highest + 1 if headless and None in first.values() else highest
    of = {name: outside if found is None else found[0] + highest - found[1] for name, found in first.items()}
    return _depths(of, outside, ", ".join(words))


def _is_headless(speaker: Any, names: list[str]) -> bool:
    """Whether a ``group_matcher`` leaves no name of its model to come last, as it does with a head."""
    try:
        matcher = speaker.group_matcher(coarse=False)
        return group_depths([*names, "\0"], matcher)[1] > group_depths(names, matcher)[1]
    except Exception:  # a function that knows its own names only
        return False


def _speakers(module: nn.Module, methods: tuple[str, ...]) -> Iterator[tuple[nn.Module, str]]:
    """The outermost modules that have a method of one of these names, each once, with the first name that it has."""
    waiting, seen = [module], {id(module)}
    while waiting:
        part = waiting.pop()
        method = next((name for name in methods if callable(getattr(part, name, None))), None)
        if method is not None:
            yield part, method
            continue
        inner = [child for child in part.children() if id(child) not in seen]
        seen.update(map(id, inner))
        waiting += reversed(inner)


def _ask(speaker: nn.Module, method: str, names: list[str], where: str) -> Numbers:
    try:
        if method == "group_matcher":
            return group_depths(names, speaker.group_matcher(coarse=False))  # type: ignore[operator]
        return _answers(speaker.get_layer_depth, names)  # type: ignore[arg-type]
    except Exception as error:
        what = f"the method {method} of {type(speaker).__name__} cannot be used"
        raise SolverError(
            where, what, got=f"{type(error).__name__}: {error}", do=f"mend it, or {_ways_out()}"
        ) from error


def _answers(method: Callable[[str], Any], names: list[str]) -> Numbers:
    answers = [(name, method(name)) for name in names]
    in_pairs = isinstance(answers[0][1], tuple)
    depths: list[int] = []
    sizes: dict[int, str] = {}
    for name, answer in answers:
        if isinstance(answer, tuple) != in_pairs or (in_pairs and len(answer) != 2):
            raise TypeError(f"{answer!r} for {name}; either a whole number for every name, or a pair for every name")
        depth = answer[0] if in_pairs else answer
        if isinstance(depth, bool) or operator.index(depth) < 0:
            raise ValueError(f"{answer!r} for {name}; a depth is a whole number >= 0")
        depths.append(operator.index(depth))
        if in_pairs:
            sizes.setdefault(operator.index(answer[1]), name)
    if len(sizes) > 1:
        said = " and ".join(f"{size} for {name}" for size, name in list(sizes.items())[:2])
        raise ValueError(f"a number of layers that is not the same for all names: {said}")
    return depths, next(iter(sizes)) - 1 if sizes else max(depths)


def _by_layout(module: nn.Module, parameters: Sequence[Parameter], key: str, layers: int | None, where: str) -> Depths:
    names = [p.name for p in parameters]
    keys = FAMILIES.get(key, (key,))
    found = recognise(names, keys)
    if len(found) > 1:
        got = ", ".join(f"{LAYOUTS[stack.key].words} ({stack.name})" for stack in found[:4])
        raise SolverError(where, "several models are recognised, so depth is not clear", got=got, do=_ways_out())
    if not found:
        if key == "timm":
            return _in_twelves(module, parameters)
        if key == "detectron2_vit" and layers is not None:  # whose function asks for no layout, but goes by each name
            counted = LAYOUTS[key].counted
            assert counted is not None
            depths, top = counted(names, layers)
            of = {name: top if depth is None else depth for name, depth in zip(names, depths)}
            return _depths(of, top, f"{key}: no ViT is recognised in a backbone, so that each name counts by itself")
        what = "the names of the parameters are not those of " + (
            "any known layout" if key in FAMILIES else LAYOUTS[key].words
        )
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise SolverError(where, what, got=shown or "no parameters", do=_ways_out())
    layout, root = LAYOUTS[found[0].key], found[0].root
    inside = [name[len(root) :] for name in names if name.startswith(root)]
    try:
        depths, top = layout.number(inside) if layers is None or not layout.counted else layout.counted(inside, layers)
    except SolverError as error:
        raise error.moved("depth", where) from error
    numbers = iter(depths)
    of = {}
    for name in names:
        depth = next(numbers) if name.startswith(root) else None
        of[name] = top if depth is None else depth
    at = f" at {root[:-1]}" if root else ""
    return _depths(of, top, f"{found[0].key}: {layout.words}{at}")


def _in_twelves(module: nn.Module, parameters: Sequence[Parameter]) -> Depths:
    """As timm treats a model that has no ``group_matcher``: by its order, with the head that its config names."""
    config = getattr(module, "pretrained_cfg", None)
    given = config.get("classifier") if isinstance(config, Mapping) else None
    heads = (given,) if isinstance(given, str) else tuple(given or ())
    depths, top = equal_groups([p.name for p in parameters], heads)
    source = "timm's twelve tensors to a layer"
    if not heads:
        source = "timm's rule for a model without group_matcher and classifier: all is one layer, decay has no effect"
    return Depths({p.name: depth for p, depth in zip(parameters, depths)}, top, source)


def _by_patterns(names: Sequence[str], patterns: Sequence[str], where: str) -> Depths:
    regexes = [_compiled(pattern, f"{where}[{i}]") for i, pattern in enumerate(patterns)]
    if not regexes:
        raise SolverError(where, "an empty list of regexes", do=_ways_out())
    hits: list[tuple[int, int] | None] = []
    numbers: list[set[int]] = [set() for _ in regexes]
    for name in names:
        hit = None
        for i, regex in enumerate(regexes):
            if found := regex.search(name):
                hit = i, _captured(found, name, f"{where}[{i}]") if regex.groups else 0
                numbers[i].add(hit[1])
                break
        hits.append(hit)
    place: dict[tuple[int, int], int] = {}
    for i, taken in enumerate(numbers):
        if not taken:
            raise _found_nowhere(regexes, i, names, where)
        for number in sorted(taken):
            place[i, number] = len(place)
    top = len(place) - (None not in hits)
    of = {name: top if hit is None else place[hit] for name, hit in zip(names, hits)}
    rest = [name for name, hit in zip(names, hits) if hit is None]
    shown = ", ".join(rest[:3]) + (f" and {len(rest) - 3} more" if len(rest) > 3 else "")
    unmatched = f"no regex is found in {shown}, which get the greatest depth, {top}" if rest else None
    return Depths(of, top, "regexes of the specification", unmatched)


def _compiled(pattern: object, where: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise SolverError(where, "must be a regex", got=repr(pattern), do="give text")
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise SolverError(
            where, f"not a regex: {error}", got=repr(pattern), do="mend it; a dot is written \\."
        ) from error
    if regex.groups > 1:
        do = "capture only the number of the layer; write other groups as (?:...)"
        raise SolverError(where, "a regex may capture one number", got=f"{regex.groups} groups in {pattern!r}", do=do)
    return regex


def _captured(found: re.Match[str], name: str, where: str) -> int:
    text = found[1]
    if text is None or not (text.isascii() and text.isdigit()):
        do = r"capture digits, as in layers\.(\d+)\., or write the group as (?:...)"
        raise SolverError(
            where, "the regex must capture a number wherever it is found", got=f"{text!r} in {name}", do=do
        )
    return int(text)


def _found_nowhere(regexes: Sequence[re.Pattern[str]], i: int, names: Sequence[str], where: str) -> SolverError:
    pattern = regexes[i].pattern
    shadowed = next((name for name in names if regexes[i].search(name)), None)
    if shadowed is not None:
        what = "every name that the regex is found in belongs to a regex before it"
        return SolverError(
            f"{where}[{i}]", what, got=f"{pattern!r}, as in {shadowed}", do="put it earlier, or leave it out"
        )
    bare = re.sub(r"\\.|[*?^$\[\]()|+]", lambda m: "." if m[0] == r"\." else "", pattern).strip(".")
    return SolverError(
        f"{where}[{i}]", "the regex is found in no name", got=repr(pattern), do=suggestion(bare, names, "parameters")
    )


def _depths(of: Mapping[str, int], top: int, source: str) -> Depths:
    beyond = sum(depth > top for depth in of.values())
    if beyond:
        source += f"; {beyond} parameters lie beyond its last layer, and a decay raises their rate"
    return Depths(of, top, source)
