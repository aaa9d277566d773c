import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laid import UNEVEN, close, laid, over, table
from lightning_solver import SolverError, SolverSpec
from lightning_solver.schedules import Constant, Function, Linear, Noise, Product

# ------------------------------------------------------------------ Function


def slower(n, rate=1.0, power=1):
    return 1 / (1 + rate * n) ** power


class Table:
    """A callable that is no function."""

    def __init__(self, values):
        self.values = values

    def __call__(self, n):
        return self.values[min(n, len(self.values) - 1)]


@pytest.mark.parametrize("function", ["test_functions.slower", slower, lambda n: 1 / (1 + n)])
def test_a_function_gives_the_factor(function):
    rows = table(Function(function), [1.0, 0.0, 0.3])
    assert rows[:, 0].tolist() == [1 / (1 + i) for i in range(10)]
    assert rows[:, 1].tolist() == [0.0] * 10
    assert rows[:, 2].tolist() == [0.3 * (1 / (1 + i)) for i in range(10)]


def test_a_function_of_the_standard_library():
    assert over(Function("math.sqrt"))[9] == 3.0
    assert over(Function("math.exp", start=0.0)) == [0.0] * 10


def test_arguments_of_the_function():
    given = Function("test_functions.slower", args={"rate": 0.5, "power": 2}, start=4.0)
    assert over(given) == [4 * (1 / (1 + 0.5 * i) ** 2) for i in range(10)]


def test_what_can_be_called_is_a_function_and_may_return_any_number():
    assert over(Function(Table([1, 2, torch.tensor(0.5).item()])), 4) == [1.0, 2.0, 0.5, 0.5]
    import numpy as np

    assert over(Function(lambda n: np.float32(0.5))) == [0.5] * 10
    assert over(Function(lambda n: np.int64(n))) == list(range(10))


@pytest.mark.parametrize(
    ("every", "run", "counts"),
    [
        (1, {}, range(10)),
        ("1ep", {"steps_per_epoch": 4}, [0] * 4 + [1] * 4 + [2] * 2),
        ("5/2", {}, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]),
        ("50%", {}, [0] * 5 + [1] * 5),
        pytest.param(
            "1ep",
            {"epoch_ends": UNEVEN},
            [0] * 3 + [1] * 5 + [2] * 2 + [3] * 6,
        ),
    ],
)
def test_what_a_function_counts(every, run, counts):
    assert over(Function(slower, every=every), len(counts), **run) == [slower(n) for n in counts]
    noisy = over(Noise(every=every), len(counts), **run)
    assert noisy == [over(Noise(), 10)[n] for n in counts]


def test_a_function_counts_from_the_start_of_its_phase():
    assert over([Constant(0.5, until=4), Function(slower)])[4:] == [slower(n) for n in range(6)]


def test_cumulative_factors():
    # function(0) is not used, as in torch's MultiplicativeLR
    given = Function(lambda n: 1 - n / 20, cumulative=True, start=2.0)
    expected = [2.0 * math.prod(1 - k / 20 for k in range(1, n + 1)) for n in range(10)]
    assert over(given) == close(expected, rel=1e-14)
    curve, _ = laid(Function(lambda n: 1 - n / 20, cumulative=True, start=2.0))
    assert [curve.at(i)[0] for i in (7, 3, 9, 0)] == close([expected[i] for i in (7, 3, 9, 0)], rel=1e-14)


@pytest.mark.parametrize("cumulative", [False, True])
def test_functions_are_the_lambda_and_multiplicative_lr_of_torch(cumulative):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    cls = torch.optim.lr_scheduler.MultiplicativeLR if cumulative else torch.optim.lr_scheduler.LambdaLR
    scheduler, values = cls(optimizer, slower), []
    for _ in range(10):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert over(Function(slower, cumulative=cumulative), base=0.3) == close(values, rel=1e-14)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("sqrt", "is not the path of a function; got 'sqrt'; give a dotted path such as package.module.name"),
        ("math.sqr", "module math has no sqr; got 'math.sqr'; did you mean sqrt"),
        ("no_such_module.f", "cannot be imported; got 'no_such_module.f'; install it, or correct the path"),
        ("math.pi", "is not a function; got 3.14159"),
        ("math.hypot_", "module math has no hypot_"),
        ("math.log", "failed for 0: ValueError: "),
        (lambda: 1.0, "failed for 0: TypeError: "),
        (lambda n: "1", "gave no number for 0; got '1'; return a factor, such as 0.5"),
        (lambda n: None, "gave no number for 0; got None"),
        (lambda n: True, "gave no number for 0; got True"),
        (lambda n: math.nan, "gave no factor for 0; got nan; return a finite number >= 0"),
        (lambda n: math.inf, "gave no factor for 0; got inf"),
        (lambda n: -0.1, "gave no factor for 0; got -0.1"),
    ],
)
def test_bad_functions(function, message):
    with pytest.raises(SolverError, match=re.escape(f"schedules.lr.function: {message}")):
        laid(Function(function))


def late(n: int, bad: int) -> float:
    return math.nan if n == bad else 1.0


@pytest.mark.parametrize("bad", [7, 9])
def test_a_function_that_fails_later_is_found_when_the_plan_is_made(bad):
    function = Function(late, args={"bad": bad})
    spec = SolverSpec(optimizer={"name": "SGD", "args": {"lr": 0.1}}, schedules={"lr": function})
    with pytest.raises(SolverError, match=re.escape(f"schedules.lr.function: gave no factor for {bad}; got nan")):
        spec.curve("lr", [1.0], total_steps=10)
    with pytest.raises(SolverError, match=re.escape(f"schedules.lr.function: gave no factor for {bad}; got nan")):
        spec.plan(torch.nn.Linear(1, 1), total_steps=10)


def test_a_function_without_a_name_is_good_for_a_curve_only():
    spec = SolverSpec(optimizer={"name": "SGD", "args": {"lr": 0.1}}, schedules={"lr": Function(lambda n: 0.5)})
    assert spec.curve("lr", [1.0], total_steps=2)[:, 0].tolist() == [0.5, 0.5]
    for use in (spec.to_dict, lambda: spec.plan(torch.nn.Linear(1, 1), total_steps=10)):
        with pytest.raises(SolverError, match=r"function: cannot be written down, .*; define it by name at the top"):
            use()


def test_a_function_is_written_by_its_path():
    assert SolverSpec(schedules={"lr": Function(math.sqrt)}).to_dict()["schedules"]["lr"]["init_args"] == {
        "function": "math.sqrt"
    }
    written = SolverSpec(schedules={"lr": Function(late, args={"bad": 1})}).to_dict()
    assert written["schedules"]["lr"]["init_args"]["function"] == f"{__name__}.late"


def test_bad_arguments_of_a_function():
    with pytest.raises(SolverError, match=r"schedules\.lr\.function: failed for 0: TypeError: .*unexpected.*'rat'"):
        laid(Function(slower, args={"rat": 1.0}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Function(slower, every=0), "Function.every: must be longer than nothing; got 0"),
        (lambda: Function(slower, start=-1.0), "Function.start: must not be negative; got -1.0"),
        (lambda: Function(slower, cumulative=1), "Function.cumulative: must be true or false; got 1 (int)"),
        (lambda: Function(slower, args=[1]), "Function.args: must be a mapping; got [1] (list)"),
        pytest.param(
            lambda: Function(5),
            "Function.function",
        ),
    ],
)
def test_bad_fields_of_a_function(make, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        make()


def test_cumulative_factors_that_no_float_holds():
    with pytest.raises(SolverError, match=r"schedules\.lr\.function"):
        over(Function(lambda n: 10.0, cumulative=True), 400)


def test_a_function_is_not_asked_for_more_than_its_phase():
    values = [1.0, 0.9, 0.8]
    assert over([Function(lambda n: values[n], until=3), Constant(0.5)], 5) == [1.0, 0.9, 0.8, 0.5, 0.5]
    assert over([Function(lambda n: values[n], until=3), Constant("previous")], 5) == [1.0, 0.9, 0.8, 0.8, 0.8]
    assert over([Constant(), Function(lambda n: values[n], every="5/2")][1:], 7) == [1.0] * 3 + [0.9] * 2 + [0.8] * 2


def test_a_function_by_its_path_is_plain_data():
    spec = SolverSpec(schedules={"lr": Function("test_functions.slower", args={"rate": 2.0}, every="1ep")})
    read = SolverSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert read == spec
    assert hash(read) == hash(spec)


# ------------------------------------------------------------------ Noise


def timm_noise(seed, limit, std, distribution):
    """What timm multiplies a learning rate with, less 1 (`timm/scheduler/scheduler.py`, Scheduler._calculate_noise)."""
    g = torch.Generator()
    g.manual_seed(seed)
    if distribution == "uniform":
        return 2 * (torch.rand(1, generator=g).item() - 0.5) * limit
    while True:
        noise = torch.randn(1, generator=g).item() * std
        if abs(noise) < limit:
            return noise


@given(
    st.integers(0, 2**34),
    st.floats(0.02, 1).map(lambda x: round(x, 3)),
    st.sampled_from([1.0, 0.5, 2.0]),
    st.sampled_from(["normal", "uniform"]),
)
@settings(max_examples=60, deadline=None)
def test_noise_is_that_of_timm(seed, limit, std, distribution):
    values = over(Noise(limit, std, distribution, seed), 12, 0.3)
    assert values == [0.3 * (1 + timm_noise(seed + n, limit, std, distribution)) for n in range(12)]
    assert all(0 <= value <= 0.3 * (1 + limit) for value in values)


def test_noise_counts_from_the_start_of_the_run():
    assert over([Constant(until=4), Noise()])[4:] == over(Noise())[4:]
    assert over([Constant(until=4), Noise(every=3)])[4:] == over(Noise(every=3))[4:]


def test_noise_is_a_factor():
    values = over(Product([Linear(end=0.0), [Constant(until=4), Noise(seed=3)]]), base=2.0)
    line, noise = over(Linear(end=0.0), base=2.0), over(Noise(seed=3))
    assert values == line[:4] + [a * b for a, b in zip(line[4:], noise[4:])]


def test_noise_is_the_same_for_every_group_and_in_every_run():
    rows = table(Noise(), [1.0, 0.0, 0.5])
    assert rows[:, 1].tolist() == [0.0] * 10
    assert rows[:, 2].tolist() == (rows[:, 0] * 0.5).tolist()
    curve, _ = laid(Noise())
    assert [curve.at(i)[0] for i in (7, 2, 7)] == [rows[7, 0], rows[2, 0], rows[7, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "Noise.limit: must lie between 0 and 1; got 0.0"),
        ({"limit": 1.5}, "Noise.limit: must lie between 0 and 1; got 1.5"),
        ({"std": 0}, "Noise.std: must be > 0; got 0.0"),
        ({"seed": -1}, "Noise.seed: must not be negative; got -1"),
        ({"seed": 1.5}, "Noise.seed: must be a whole number; got 1.5 (float)"),
        ({"distribution": "norm"}, "Noise.distribution: unknown value; got 'norm'; did you mean normal"),
        ({"every": "0ep"}, "Noise.every: must be longer than nothing; got '0ep'"),
    ],
    ids=repr,
)
def test_bad_noise(arguments, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        Noise(**arguments)


def test_noise_by_epochs_of_unknown_length():
    with pytest.raises(SolverError, match=re.escape("schedules.lr.every: needs the length of an epoch")):
        laid(Noise(every="1ep"))
