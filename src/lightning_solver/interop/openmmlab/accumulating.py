"""Batches that make an optimiser step: these systems count them through the run, here a window is of one epoch."""

from __future__ import annotations

from typing import Any

from lightning_solver.durations import exact
from lightning_solver.interop.base import Notes


def read_windows(count: int, where: str, peer: str, run: tuple[Any, Any], notes: Notes) -> dict[str, Any]:
    """The field of a spec that accumulates as a config does.

    Both divide the loss by the number of batches, and both divide the batches that are left over at the end of the run
    by their own number. What differs is the end of the other epochs.

    Args:
        count: How many batches make a step.
        where: The path of that number.
        peer: What the peer is called.
        run: Batches of an epoch and batches of the run, each ``None`` where it is not known.
        notes: Takes what differs.

    Example:
        >>> read_windows(4, "accumulative_counts", "MMEngine", (16, None), Notes())
        {'accumulate': 4}
    """
    if count == 1:
        return {}
    epoch, total = (None if given is None else exact(given) for given in run)
    theirs = f"a window of {count} batches that an epoch does not fill goes on in the next one in {peer}"
    if epoch is None:
        what = "here it ends with the epoch and is divided by its own length"
        notes.say(where, f"{theirs}; {what}: the same where {count} divides the batches of an epoch")
    elif epoch % count and not (total is not None and total <= epoch):
        steps = -(-epoch // count)
        what = f"here the last {epoch % count} of the {epoch} batches make a step of their own, so that an epoch has"
        moves = f"{steps} steps, in each of which schedules of iterations move by {count}"
        do = f"let {count} divide the batches of an epoch (drop_last, or another batch size) to have both alike"
        notes.unmapped(where, f"is not mapped exactly: {theirs}; {what} {moves}; {do}")
    return {"accumulate": count}
