import re

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as torch_lr

from laid import close, laid, over, table
from lightning_solver import SolverError
from lightning_solver.schedules import (
    Chain,
    Constant,
    Cosine,
    Cycle,
    Exponential,
    Function,
    Linear,
    MultiStep,
    Polynomial,
    Product,
    Step,
)

BASES = [0.3, 0.02, 1.0]
FLOOR = {"absolute": 0.01}
LINKS = {
    "warm": (lambda o: torch_lr.LinearLR(o, 0.1, 1.0, 5), [Linear(start=0.1, until=5), Constant()], 0.0),
    "down": (lambda o: torch_lr.LinearLR(o, 1.0, 0.2, 20), [Linear(end=0.2, until=20), Constant(0.2)], 0.0),
    "hold": (lambda o: torch_lr.ConstantLR(o, 0.4, 7), [Constant(0.4, until=7), Constant()], 0.0),
    "cosine": (lambda o: torch_lr.CosineAnnealingLR(o, 30), Cosine(), 0.0),
    "floor": (lambda o: torch_lr.CosineAnnealingLR(o, 30, eta_min=0.01), Cosine(end=FLOOR), FLOOR),
    "short": (
        lambda o: torch_lr.CosineAnnealingLR(o, 10, eta_min=0.01),
        Cycle([Cosine(end=FLOOR, until="50%"), Cosine(start=FLOOR, end=1.0)], every=20),
        FLOOR,
    ),
    "poly": (lambda o: torch_lr.PolynomialLR(o, 30, 0.9), Polynomial(power=0.9), 0.0),
    "stairs": (lambda o: torch_lr.StepLR(o, 6, 0.5), Step(every=6, gamma=0.5), 0.0),
    "points": (lambda o: torch_lr.MultiStepLR(o, [4, 22], 0.3), MultiStep(at=[4, 22], gamma=0.3), 0.0),
    "exp": (lambda o: torch_lr.ExponentialLR(o, 0.97), Exponential(0.97, every=1), 0.0),
    "times": (lambda o: torch_lr.MultiplicativeLR(o, lambda n: 0.95), Function(lambda n: 0.95, cumulative=True), 0.0),
}


def by_torch(names, steps=30):
    """The values of torch's ChainedScheduler; shape (steps, groups)."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": base} for base in BASES]
    optimizer, rows = torch.optim.SGD(groups), []
    chained = torch_lr.ChainedScheduler([LINKS[name][0](optimizer) for name in names], optimizer)
    for _ in range(steps):
        rows.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        chained.step()
    return np.array(rows)


def chain(names):
    return Chain([LINKS[name][1] for name in names], floors=[LINKS[name][2] for name in names])


@pytest.mark.parametrize(
    "names",
    [
        ("warm", "floor"),
        ("floor", "warm"),
        ("floor", "floor"),
        ("floor", "stairs"),
        ("points", "floor"),
        ("hold", "floor", "exp"),
        ("warm", "down", "floor"),
        ("down", "poly"),
        ("warm", "poly", "points"),
        ("stairs", "floor", "times"),
        ("warm", "cosine"),
        ("short", "warm"),
        ("exp", "cosine", "floor"),
    ],
    ids="+".join,
)
def test_a_chain_is_the_chained_scheduler_of_torch(names):
    np.testing.assert_allclose(table(chain(names), BASES, 30), by_torch(names), rtol=1e-9, atol=1e-14)


def test_what_the_torch_test_compares_differs_from_a_product():
    product = table(Product([Cosine(end=FLOOR), Step(every=6, gamma=0.5)]), BASES, 30)
    assert np.abs(product / by_torch(("floor", "stairs")) - 1).max() > 0.1


@pytest.mark.parametrize(
    "names", [("warm", "cosine"), ("down", "poly", "exp"), ("stairs", "points"), ("hold", "cosine")]
)
def test_with_floors_of_nothing_a_chain_is_a_product(names):
    links = [LINKS[name][1] for name in names]
    product = table(Product(links), BASES, 30)
    np.testing.assert_allclose(table(chain(names), BASES, 30), product, rtol=1e-12)
    assert table(Chain(links), BASES, 30).tobytes() == table(chain(names), BASES, 30).tobytes()


def test_a_chain_as_a_phase_begins_where_its_phase_does():
    phases = [Constant(0.5, until=4), chain(("warm", "floor"))]
    with pytest.raises(
        SolverError, match=re.escape("schedules.lr[1].of[0][0].until: ends before it begins, at step 6")
    ):
        over([Constant(0.5, until=6), chain(("warm", "floor"))], 30)  # "warm" ends at 5
    values = over(phases, 30)
    assert values[:4] == [0.5] * 4
    # the ramp takes the one step from 4 to 5, the cosine the 26 from 4 to 30
    cosine = over(Cosine(end=FLOOR), 26)
    assert values[4] == close(0.1 * cosine[0])
    assert values[5] == close(0.01 + (1.0 - 0.01) * (cosine[1] - 0.01) / (cosine[0] - 0.01), rel=1e-12)


def test_a_chain_is_held_after_the_run_and_needs_its_length():
    curve, _ = laid(chain(("warm", "floor")), 30)
    assert {tuple(curve.at(i)) for i in range(30, 90)} == {tuple(curve.at(30))}
    with pytest.raises(SolverError, match=re.escape("schedules.lr: needs the length of the run")):
        laid(Chain([Constant(), Step(every=3)]), None)


def test_a_recurrence_that_goes_below_0_is_refused():
    # what torch does there is a negative learning rate
    assert by_torch(("exp", "short")).min() < 0
    with pytest.raises(SolverError, match=re.escape("schedules.lr: goes below 0; got -0.00775613; mend its terms")):
        table(chain(("exp", "short")), BASES, 30)


def test_a_base_of_nothing_stays_where_all_is_by_factors():
    rows = table(Chain([Linear(start=0.0), Cosine(end=0.1)], floors=[0.0, 0.1]), [0.0, 1.0])
    assert rows[:, 0].tolist() == [0.0] * 10
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chain([]), "Chain.of: needs at least two; got 0; give the schedule by itself"),
        (lambda: Chain([Linear()]), "Chain.of: needs at least two; got 1"),
        (
            lambda: Chain([Linear(), Cosine()], floors=[0.0]),
            "Chain.floors: does not fit the number of schedules; got (1, 2); give one for each",
        ),
        (
            lambda: over(Chain([Linear(), Cosine()], floors=[0.0, "previous"])),
            "schedules.lr.floors[1]: there is no phase",
        ),
        (
            lambda: over(Chain([Linear(), [Constant(), Cosine()]])),
            "schedules.lr.of[1][0].until: a phase that is not the",
        ),
        *(
            pytest.param(
                lambda floor=floor: Chain([Linear(), Cosine()], floors=[0.0, floor]),
                f"Chain.floors[1]: {message}",
            )
            for floor, message in [
                ("prev", "is not a value"),
                (-0.1, "must not be negative"),
                ({"x": 1}, "is not a val"),
            ]
        ),
    ],
)
def test_bad_chains(make, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        make()
