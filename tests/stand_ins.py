"""Models that are not installed here, rebuilt from the list of their parameters: names, shapes, classes, sharing."""

import functools
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"

_BASES = {
    "LayerNorm": nn.LayerNorm,
    "BatchNorm": nn.BatchNorm2d,
    "GroupNorm": nn.GroupNorm,
    "Linear": nn.Linear,
    "Embedding": nn.Embedding,
    "Conv2d": nn.Conv2d,
}
"""What a class of another package derives from, by how its name begins: timm's ``LayerNorm2d`` is a ``LayerNorm``."""


def golden_cases(*names: str) -> list[dict[str, Any]]:
    """The cases of files in ``tests/golden``."""
    return [case for name in names for case in json.loads((GOLDEN / f"{name}.json").read_text())]


def golden_model(
    key: str,
    listed: Mapping[str, Any],
    *,
    frozen_prefixes: Sequence[str] = (),
    methods: Mapping[str, Callable[..., Any]] | None = None,
) -> nn.Module:
    """The model of a case of parameter groups: that of ``golden/models.py``, or a stand-in.

    Args:
        key: ``setting.model`` of the case.
        listed: What the file of model parameters holds.
        frozen_prefixes: ``setting.frozen_prefixes`` of the case.
        methods: Methods of the outermost module, such as ``no_weight_decay``.
    """
    if key.startswith("models:"):
        model = _models().build(key.removeprefix("models:"))
        for name, method in (methods or {}).items():
            setattr(model, name, method)
    else:
        model = stand_in(listed[key]["parameters"], methods)
    for name, parameter in model.named_parameters():
        if frozen_prefixes and name.startswith(tuple(frozen_prefixes)):
            parameter.requires_grad_(False)
    return model


def stand_in(
    parameters: Sequence[Mapping[str, Any]], methods: Mapping[str, Callable[..., Any]] | None = None
) -> nn.Module:
    """A module with the given parameters, on the meta device; it cannot be called.

    Args:
        parameters: ``name``, ``shape``, and where known ``requires_grad``, ``module`` (dotted path of the class that
            holds it; torch's classes are the real ones) and ``same_as`` (an earlier name of the same tensor), in order.
        methods: Methods of the outermost module, such as ``no_weight_decay``.
    """
    owners = {entry["name"].rpartition(".")[0]: entry.get("module") for entry in parameters}
    root = _bare(owners.get(""))
    made: dict[str, nn.Parameter] = {}
    for entry in parameters:
        path, _, leaf = entry["name"].rpartition(".")
        owner, passed = root, ""
        for part in path.split(".") if path else ():
            passed = f"{passed}.{part}" if passed else part
            if part not in owner._modules:
                owner.add_module(part, _bare(owners.get(passed)))
            owner = owner._modules[part]
        shape = tuple(entry["shape"])
        if "same_as" in entry:
            parameter = made[entry["same_as"]]
        else:
            parameter = nn.Parameter(torch.empty(shape, device="meta"), entry.get("requires_grad", True))
        made[entry["name"]] = parameter
        owner.register_parameter(leaf, parameter)
        if isinstance(owner, nn.modules.conv._ConvNd) and leaf == "weight":
            depthwise = shape[1] == 1 and shape[0] > 1
            owner.in_channels = owner.groups = shape[0]
            if not depthwise:
                owner.in_channels, owner.groups = shape[1], 1
    for name, method in (methods or {}).items():
        setattr(root, name, method)
    return root


def _bare(path: str | None) -> nn.Module:
    """A module of a class, without what its constructor would make."""
    cls = nn.Module if path is None else _class_of(path)
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    return module


@functools.cache
def _class_of(path: str) -> type[nn.Module]:
    package, _, name = path.rpartition(".")
    if package.startswith("torch."):
        found: type[nn.Module] = getattr(importlib.import_module(package), name)
        return found
    base = next((base for begin, base in _BASES.items() if name.startswith(begin)), nn.Module)
    return type(name, (base,), {"__module__": package})


@functools.cache
def _models() -> Any:
    """``golden/models.py`` as a module called ``models``, as it was where the figures were taken."""
    spec = importlib.util.spec_from_file_location("models", GOLDEN / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
