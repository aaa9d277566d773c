"""How a recipe of timm is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Imported, Notes, Phases, imported_spec
from lightning_solver.interop.reading import Call, load
from lightning_solver.interop.timm import averages, gradients
from lightning_solver.interop.timm.arguments import CLASSES
from lightning_solver.interop.timm.classes import of_class
from lightning_solver.interop.timm.factory import of_factory, rest_of_script
from lightning_solver.interop.timm.forms import read_config, says_arguments, says_schedule
from lightning_solver.interop.timm.script import OPTIMIZER, of_script
from lightning_solver.interop.timm.split import split
from lightning_solver.interop.torch.script import text_of
from lightning_solver.rule import Rule


def from_timm(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read a recipe of timm 1.0 as a spec: optimiser, groups of parameters, schedule, average and clipping, or some.

    Args:
        config: Of the schedule, one of: ``{"create_scheduler_v2": {...}}``, its keywords alone, or the text of the
            call; ``{"create_scheduler": {...}}``; a class of ``timm.scheduler``, as ``{"type": "CosineLRScheduler",
            ...}`` or as the text of the call. Of the optimiser, beside it in one mapping or text, or alone:
            ``{"create_optimizer_v2": {...}}`` or the text of the call; ``{"create_optimizer": {...}}``;
            ``{"param_groups_layer_decay": {...}, "optimizer": {"type": "AdamW", ...}}`` or its text,
            ``AdamW(param_groups_layer_decay(model), lr=1e-3)``. Of the average of the weights, likewise: ``{"average":
            "ModelEmaV3(model, decay=0.9998)", "update": "update(model, step=num_updates)"}``, a class by ``type``, or
            the text. Of clipping: ``{"clip": "dispatch_clip_grad(parameters, 1.0)"}``, or such a call wherever it
            stands in a text. Of all: the arguments of ``train.py`` by name, with dashes or underscores, or the
            ``args.yaml`` that it wrote. Or the path of a ``.yaml``, ``.json`` or ``.py`` file with one of these.
        facts: What the config leaves open: ``epochs`` or ``total_iters`` where the run is not as long as timm would
            make it, ``iters_per_epoch`` where a length in updates is rounded, ``base_lr`` where a group's rate may lie
            below ``min_lr``, ``lr_scale`` for ``sched="none"``, ``metrics`` by name for a plateau.
        strict: Whether a key that is not mapped is an error.

    Returns:
        A spec with what the config says, and notes; the average is called ``ema``. Without an optimiser in it the spec
        is good for curves.

    Raises:
        SolverError: What timm refuses, what has no counterpart, a config of another system, a fact that is needed.

    Example:
        >>> imported = from_timm("CosineLRScheduler(optimizer, t_initial=20, t_in_epochs=False)")
        >>> imported.spec.to_dict()["schedules"]["lr"][0]
        {'class_path': 'Cosine', 'init_args': {'until': 20}}
        >>> from_timm({"create_optimizer_v2": {"opt": "sgd", "lr": 0.1}}).spec.to_dict()["optimizer"]
        {'name': 'SGD', 'args': {'lr': 0.1, 'weight_decay': 0.0, 'nesterov': True, 'momentum': 0.9}}
    """
    notes = Notes()
    known = Facts(facts, notes)
    own, rest = gradients.take_gradients(load(config), text_of(config), notes)
    average, rest = averages.take_average(rest, notes)
    own |= {} if average is None else {"averages": {"ema": average}}
    if rest is None and config is not None:
        return notes.imported(imported_spec({}, **own), strict)
    parts = split(rest, notes)
    fields, phases, scheduled = parts.optimizer, None, False
    if own and fields is None and not (says_schedule(parts.rest) or says_arguments(parts.rest)):
        fields = own
    if fields is None or says_schedule(parts.rest):
        fields, phases, scheduled = _read(parts.rest, fields, known, notes)
    elif isinstance(parts.rest, Mapping):
        for key, value in parts.rest.items():
            if not isinstance(value, Call):
                notes.unmapped(str(key), "is not part of the optimiser, the schedules, the averages or the clipping")
    if fields is not None and fields.get("depth") and not scheduled:
        what = "timm's own schedulers multiply by lr_scale, others leave it without effect; here the rates contain it"
        notes.say("layer_decay", what)
    named = known.get("no_weight_decay")
    if fields is not None and named is not None:
        fields = {**fields, "rules": _by_name(fields.get("rules", ()), named)}
    fields = own if fields is own else gradients.joined(own, fields or {})
    return notes.imported(imported_spec({} if phases is None else {"lr": phases}, **fields), strict)


def _by_name(rules: Sequence[Rule], names: Any) -> tuple[Rule, ...]:
    """The rules with the names that the model lists in place of the method that would list them.

    Raises:
        SolverError: They are no names.
    """
    if not isinstance(names, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in names):
        raise SolverError("facts.no_weight_decay", "must be names", got=repr(names)[:120], do="give a list of names")
    asked = [rule.listed_by is not None for rule in rules]
    given = tuple(sorted(names))
    return tuple(
        dataclasses.replace(rule, listed_by=None, match=given) if method else rule
        for rule, method in zip(rules, asked)
        if given or not method
    )


def _read(
    config: Any, fields: dict[str, Any] | None, facts: Facts, notes: Notes
) -> tuple[dict[str, Any] | None, Phases | None, bool]:
    """The schedule and, of the script's arguments, all else that they say; and whether there is a schedule."""
    name, settings = read_config(config, notes)
    if name == "train.py":
        if fields is None and any(key in settings for key in OPTIMIZER):
            fields = of_script(settings, complete=False)
        if any(key in settings for key in averages.SCRIPT):
            average = averages.of_script(settings)
            fields = {**(fields or {}), **({} if average is None else {"averages": {"ema": average}})}
        if any(key in settings for key in gradients.SCRIPT):
            fields = {**(fields or {}), **gradients.of_script(settings)}
            gradients.check_windows(settings, facts)
        if fields is not None and not says_schedule(settings):
            rest_of_script(settings, name)
            return fields, None, False
    return fields, (of_class if name in CLASSES else of_factory)(name, settings, facts), True
