"""What to say of a group of which it cannot be told which parameters it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.interop.base import Notes
from lightning_solver.interop.torch.made import OwnGroup


def note_untold(group: OwnGroup, why: str, notes: Notes) -> None:
    """Note such a group, with the rule by which it is written here.

    Args:
        group: The group.
        why: Why it cannot be told.
        notes: Takes the note.
    """
    notes.unmapped(group.where, f"is not mapped: {why}; {_way_out(group.options)}")


def _way_out(own: Mapping[str, Any]) -> str:
    if not own:
        return "they get the optimiser's own values; leave out what is in no group by rules with frozen: true"
    if own == {"weight_decay": 0}:
        return "write their rule: {ndim: [0, 1], weight_decay: 0.0} where they are those of at most one dimension"
    if own.keys() == {"weight_decay"}:
        rule = f'{{match: "*", weight_decay: {own["weight_decay"]}}}'
        return f"write their rule: {rule}, before those of the other groups, where they are the rest"
    fields = [f"{key}: {value}" for key, value in own.items() if key in ("lr", "weight_decay")]
    others = [f"{key}: {_plain(value)}" for key, value in own.items() if key not in ("lr", "weight_decay")]
    fields += [f"set: {{{', '.join(others)}}}"] if others else []
    return f'write their rule, with their names in place of head.*: {{match: "head.*", {", ".join(fields)}}}'


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [*value]
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value
