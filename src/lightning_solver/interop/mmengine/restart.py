"""The kind ``CosineRestart``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from lightning_solver.errors import SolverError
from lightning_solver.interop.mmengine.move import Move, start_at
from lightning_solver.interop.mmengine.point import END, Point
from lightning_solver.interop.mmengine.reader import Reader, as_number, ratio
from lightning_solver.schedules import Constant, Cosine, Cycle, Over, Schedule
from lightning_solver.schedules.base import Level


def restart(reader: Reader) -> Move:
    """``CosineRestart``: cosines one after another, each from its weight of the base value."""
    data, run = reader.data, reader.run
    periods, weights = data.needed("periods"), data.take("restart_weights", (1,))
    eta = reader.eta_min(needed=True)
    for key, values in (("periods", periods), ("restart_weights", weights)):
        if not isinstance(values, (list, tuple)) or not values:
            raise reader.error(key, "must be a list of numbers", values)
    if len(periods) != len(weights):
        got = f"{len(weights)} weights for {len(periods)} periods"
        raise SolverError(
            data.path("restart_weights"), "must have one weight for each period", got=got, do="correct it"
        )
    spans: list[tuple[Point, float]] = []
    for i, (period, weight) in enumerate(zip(periods, weights)):
        span, whole = reader.whole(period, f"periods[{i}]")
        factor = float(as_number(weight, data.path(f"restart_weights[{i}]")))
        if not whole or run.sign(span) != 1 or factor < 0:
            raise reader.error(
                f"periods[{i}]", "must be a whole number > 0, and its weight not negative", (period, weight)
            )
        spans.append((span, factor))
    tops = [reader.base(factor) for _, factor in spans]
    if run.sign(reader.begin - END) in (0, 1):
        return reader.held()
    if reader.once:
        return reader.move(lambda _: [Constant(tops[0])], reader.begin, sets=True, jumps=True, pure=False)
    stop = reader.begin
    shapes: list[Schedule] = []
    for (span, _), top in zip(spans, tops):
        if reader.compared(stop, reader.visible, "periods") >= 0:
            break
        stop = stop + span
        shapes.append(Cosine(**start_at(top), end=eta, until=run.text(stop)))
    over = reader.compared(stop, reader.visible, "periods") < 0  # what the last iteration had is held
    last = stop - reader.tick if over else reader.end - reader.tick
    until = run.text(last) if over or not reader.endless else None

    cycle = _as_cycle(reader, spans[: len(shapes)], shapes, eta)
    final = shapes[-1].ending(None)
    if until is not None and run.sign(last - stop + spans[len(shapes) - 1][0]) == 0:  # held as it restarts
        phases = [*shapes[:-1], Constant(tops[len(shapes) - 1])]
    elif cycle is not None:
        phases = [cycle.ending(until)]
    elif over:
        phases = [*shapes[:-1], Over(final, end=run.text(stop), until=until)]
    else:
        phases = [*shapes[:-1], reader.cut(final, stop)]
    return reader.move(lambda _: phases, last, sets=True, jumps=True, pure=False)


def _as_cycle(
    reader: Reader, spans: Sequence[tuple[Point, float]], shapes: Sequence[Schedule], eta: Level
) -> Schedule | None:
    """The periods as a cycle, where there are several and they are regular."""
    ratios = [ratio(reader, later[0], span[0]) for span, later in itertools.pairwise(spans)]
    grow = ratios[0] if ratios else None
    if grow is None or grow < 1 or grow.denominator != 1 or set(ratios) != {grow}:
        return None
    weights = [weight for _, weight in spans]
    decay = weights[1] / weights[0] if weights[0] else 0.0
    if not all(math.isclose(weight, weights[0] * decay**i, rel_tol=1e-13) for i, weight in enumerate(weights)):
        return None
    fixed = isinstance(eta, dict) or eta == 0
    if decay <= 0 or (decay != 1 and (not fixed or reader.initial)):
        return None
    of = shapes[0].ending(None)
    return Cycle(of, every=reader.text(spans[0][0]), grow=int(grow), decay=decay)
