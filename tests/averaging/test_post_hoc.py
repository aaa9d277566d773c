"""Averages of any length from snapshots of power-function averages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_solver import SolverError
from lightning_solver.averaging import EMA, PowerEMA
from lightning_solver.averaging.average import Average, Count
from lightning_solver.averaging.averaged import Averaged
from lightning_solver.averaging.files import ORIGIN_KEY
from lightning_solver.averaging.kinds import gamma_of
from lightning_solver.averaging.post_hoc import (
    Profile,
    Reconstruction,
    fit_profile,
    inner_products,
    read_snapshot,
    reconstruct,
    save_snapshot,
    snapshot_path,
)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))


def train(net: nn.Module, steps: int, watch: Any) -> None:
    """Trains, with ``watch(step)`` after each step; far from converged, so that averages differ."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    target = torch.randn(8, 2)
    for step in range(1, steps + 1):
        batch = torch.randn(16, 8)
        optimizer.zero_grad()
        (net(batch) - batch @ target - torch.randn(16, 2)).square().mean().backward()
        optimizer.step()
        watch(step)


def run(folder: Path, steps: int, number: int, lengths: tuple[float, ...] = (0.05, 0.1), **kwargs: Any) -> Any:
    """Trains with snapshots; returns averages of any length made directly, by length and step."""
    net = model()
    stored = {f"ema{length}": PowerEMA(sigma_rel=length, **kwargs) for length in lengths}
    over = {name: average.over(net) for name, average in stored.items()}
    direct = {length: PowerEMA(sigma_rel=length, **kwargs).over(net) for length in (0.03, 0.07, 0.15, 0.2)}
    seen: dict[tuple[float, int], dict[str, Tensor]] = {}

    def watch(step: int) -> None:
        for average in (*over.values(), *direct.values()):
            average.update()
        if step % (steps // number) == 0 and all(average.begun for average in over.values()):
            for name, average in over.items():
                snapshot(folder, name, average, net)
            for length, average in direct.items():
                seen[length, step] = {name: value.clone() for name, value in zip(average.names, average.values)}

    train(net, steps, watch)
    return seen


def snapshot(folder: Path, name: str, average: Averaged, net: nn.Module, **kwargs: Any) -> Path:
    path = snapshot_path(folder, name, average.count.steps)
    with average.swapped_in():
        save_snapshot(path, net.state_dict(), name, average.average, average.count, **kwargs)
    return path


def write(folder: Path, average: Average, step: int, name: str = "ema", began: int = 1, **kwargs: Any) -> Path:
    """A snapshot as if it was of a run."""
    path = snapshot_path(folder, name, step)
    weights = kwargs.pop("state", {"w": torch.ones(2) * step})
    count = Count(steps=step, began=began, updates=step, latest=kwargs.pop("latest", step))
    save_snapshot(path, weights, name, average, count, **kwargs)
    return path


def error(made: Reconstruction, direct: dict[str, Tensor]) -> float:
    """The relative error of the floating-point tensors."""
    floating = {name: value.double() for name, value in direct.items() if value.is_floating_point()}
    pairs = [(made.state_dict[name].double(), value) for name, value in floating.items()]
    return float((sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)) ** 0.5)


# ------------------------------------------------------------------ the paper's formulas


@pytest.mark.parametrize("gamma", [0.0, 0.5, 6.94, 16.97])
@pytest.mark.parametrize("other", [0.0, 1.0, 16.97, 40.0])
@pytest.mark.parametrize("times", [(100.0, 100.0), (100.0, 70.0), (5.0, 100.0)])
def test_inner_products_are_the_integrals_of_the_products(
    gamma: float, other: float, times: tuple[float, float]
) -> None:
    a, b = Profile(gamma, times[0]), Profile(other, times[1])
    nodes, weights = np.polynomial.legendre.leggauss(60)
    middle = min(times) / 2
    integral = middle * float(weights @ (a(middle * (nodes + 1)) * b(middle * (nodes + 1))))
    assert inner_products([a], [b])[0, 0] == pytest.approx(integral, rel=1e-6)
    assert inner_products([b], [a])[0, 0] == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_a_profile_has_the_mass_1_and_the_width_that_its_length_says(sigma: float) -> None:
    profile = Profile(gamma_of(sigma), 250.0)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    times, weights = 125.0 * (nodes + 1), 125.0 * weights
    values = profile(times)
    mean = weights @ (values * times)
    assert weights @ values == pytest.approx(1.0)
    assert (weights @ (values * (times - mean) ** 2)) ** 0.5 / 250.0 == pytest.approx(sigma)
    assert profile(np.array([-1.0, 0.0, 250.5])).tolist() == [0.0, 0.0, 0.0]


def profiles(number: int, total: float = 1000.0, lengths: tuple[float, ...] = (0.05, 0.1)) -> list[Profile]:
    return [Profile(gamma_of(length), total * (i + 1) / number) for i in range(number) for length in lengths]


def test_a_profile_that_is_there_is_found_exactly() -> None:
    known = profiles(20)
    fit = fit_profile(known, known[13])
    assert np.allclose(fit.coefficients, np.eye(40)[13], atol=1e-9)
    assert fit.residual < 1e-6
    assert fit.gain == pytest.approx(1.0)


@pytest.mark.parametrize("sigma", [0.02, 0.07, 0.25])
@pytest.mark.parametrize("number", [1, 5, 60])
def test_coefficients_sum_up_to_1(sigma: float, number: int) -> None:
    fit = fit_profile(profiles(number), Profile(gamma_of(sigma), 1000.0))
    assert sum(fit.coefficients) == pytest.approx(1.0, abs=1e-9)


def test_no_other_coefficients_of_the_sum_1_come_nearer() -> None:
    known, target = profiles(8), Profile(gamma_of(0.07), 1000.0)
    gram, products = inner_products(known, known), inner_products(known, [target])[:, 0]
    norm = inner_products([target], [target])[0, 0]
    fit = fit_profile(known, target)
    found = np.array(fit.coefficients)
    rng = np.random.default_rng(0)
    for _ in range(200):
        step = rng.normal(size=len(found)) * 10.0 ** rng.uniform(-6, -1)
        other = found + step - step.mean()
        left = (other @ gram @ other - 2 * other @ products + norm) / norm
        assert left**0.5 >= fit.residual * (1 - 1e-9)


def test_the_residual_falls_with_the_number_of_snapshots_and_rises_with_the_distance() -> None:
    target = Profile(gamma_of(0.07), 1000.0)
    residuals = [fit_profile(profiles(number), target).residual for number in (2, 5, 10, 20, 50, 200)]
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[3] < 3e-3
    far = [fit_profile(profiles(20), Profile(gamma_of(sigma), 1000.0)).residual for sigma in (0.1, 0.15, 0.2, 0.25)]
    assert far == sorted(far)


def test_profiles_that_are_alike_do_no_harm() -> None:
    known, target = profiles(20), Profile(gamma_of(0.15), 1000.0)
    once, twice = fit_profile(known, target), fit_profile([*known, *known], target)
    assert twice.residual == pytest.approx(once.residual, rel=1e-6)
    together = np.add(*np.split(np.array(twice.coefficients), 2))
    assert np.allclose(together, once.coefficients, atol=1e-8)


def test_the_fit_holds_for_the_discrete_averages_at_least_as_well() -> None:
    """What ``PowerEMA`` gives to a step is the integral of the profile over it."""
    total, known, target = 60, profiles(6, 60.0), Profile(gamma_of(0.15), 60.0)
    fit = fit_profile(known, target)

    def discrete(profile: Profile) -> Any:
        return np.diff(np.minimum(np.arange(total + 1) / profile.time, 1.0) ** (profile.gamma + 1))

    curve = PowerEMA(sigma_rel=0.15).curve(total_steps=total)
    kept = np.cumprod(np.append(1 - curve[1:], 1.0)[::-1])[::-1]
    assert np.allclose(discrete(target), curve * kept)
    mixed = sum(x * discrete(profile) for x, profile in zip(fit.coefficients, known))
    left = np.linalg.norm(mixed - discrete(target)) / np.linalg.norm(discrete(target))
    assert 0.8 * fit.residual < left < 1.05 * fit.residual


# ------------------------------------------------------------------ against averages that were made directly


@pytest.mark.parametrize("kwargs", [{}, {"start": 0}, {"start": 41}, {"every": 5}, {"start": 40, "every": 4}])
def test_the_average_of_any_length_comes_near_the_direct_one(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    seen = run(tmp_path, 400, 25, **kwargs)
    for (length, step), direct in seen.items():
        if step in (400, 320):
            made = reconstruct([tmp_path], sigma_rel=length, step=step)
            assert error(made, direct) < 1e-3, (length, step)
            assert made.sigma_rel == pytest.approx(length)


def test_a_single_length_gives_its_neighbours(tmp_path: Path) -> None:
    seen = run(tmp_path, 200, 20, lengths=(0.1,))
    made = reconstruct([tmp_path], gamma=gamma_of(0.15))
    assert error(made, seen[0.15, 200]) < 3e-3
    assert made.fit.residual < 0.06


def test_a_stored_length_comes_out_as_it_is(tmp_path: Path) -> None:
    run(tmp_path, 100, 5)
    made = reconstruct([tmp_path], sigma_rel=0.1)
    stored = read_snapshot(snapshot_path(tmp_path, "ema0.1", 100)).file.weights
    assert all(torch.allclose(made.state_dict[name], value, atol=1e-6) for name, value in stored.items())


def test_whole_numbers_are_those_of_the_snapshot_before_the_step(tmp_path: Path) -> None:
    run(tmp_path, 100, 10)
    assert reconstruct([tmp_path], sigma_rel=0.2).state_dict["1.num_batches_tracked"].item() == 100
    assert reconstruct([tmp_path], sigma_rel=0.2, step=75).state_dict["1.num_batches_tracked"].item() == 70


def test_what_is_not_averaged_is_taken_from_one_snapshot(tmp_path: Path) -> None:
    average = PowerEMA(gamma=6.0, leave_out="other")
    for step in (10, 20, 30):
        state = {"_orig_mod.w": torch.ones(2) * step, "other": torch.ones(1) * step}
        write(tmp_path, average, step, state=state, averaged=["w"])
    made = reconstruct([tmp_path], gamma=5.0)
    assert made.state_dict["other"].item() == 30.0
    assert 20.0 < made.state_dict["_orig_mod.w"][0].item() < 30.0


def test_the_step_of_an_average_that_was_not_moved_since_is_that_of_its_latest_update(tmp_path: Path) -> None:
    for name, latest in (("exact", 0), ("late", 4)):
        folder = tmp_path / name
        folder.mkdir()
        for step in (50, 100):
            write(folder, PowerEMA(gamma=6.0, every=10), step + latest, latest=step)
    exact, late = reconstruct([tmp_path / "exact"], gamma=5.0), reconstruct([tmp_path / "late"], gamma=5.0)
    assert (exact.step, late.step) == (100, 104)
    assert late.fit == exact.fit
    assert reconstruct([tmp_path / "late"], gamma=5.0, step=103).fit == exact.fit


# ------------------------------------------------------------------ files


def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    net, average = model(), PowerEMA(sigma_rel=0.1, every="2ep", snapshots="5ep", leave_out=["head.*"])
    count = Count(steps=12, began=3, updates=4, latest=11)
    path = snapshot_path(tmp_path, "long", 12)
    assert path.name == "long-step=00000012.ckpt"
    save_snapshot(path, net.state_dict(), "long", average, count, averaged=("0.weight",), beside={"global_step": 12})
    found = read_snapshot(path)
    assert (found.name, found.average, found.count, found.file.step) == ("long", average, count, 12)
    assert found.averaged == {"0.weight"}
    assert all(torch.equal(found.file.weights[name], value) for name, value in net.state_dict().items())
    saved = torch.load(path, weights_only=True)
    assert set(saved["lightning_solver_snapshot"]) == {"name", "average", "count", "averaged"}
    assert saved["lightning_solver_snapshot"]["average"]["class_path"] == "PowerEMA"


def test_a_snapshot_is_written_again_when_training_goes_back(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        path = write(tmp_path, PowerEMA(gamma=6.0), 10, state={"w": torch.tensor([value])})
    assert read_snapshot(path).file.weights["w"].item() == 2.0
    assert len(list(tmp_path.iterdir())) == 1


def test_the_result_is_a_checkpoint_where_the_snapshots_were_some(tmp_path: Path) -> None:
    for step in (50, 100):
        beside = {"pytorch-lightning_version": "2.6.0", "global_step": step, "hyper_parameters": {"width": 2}}
        write(tmp_path, PowerEMA(gamma=6.0), step, beside=beside)
    made = reconstruct([tmp_path], sigma_rel=0.1)
    saved = torch.load(made.save(tmp_path / "out.ckpt"), weights_only=True)
    assert set(saved) == {*beside, "state_dict", ORIGIN_KEY}
    assert saved["hyper_parameters"] == {"width": 2}
    assert saved[ORIGIN_KEY]["kind"] == "post-hoc EMA"
    assert saved[ORIGIN_KEY]["residual"] == made.fit.residual
    assert sum(saved[ORIGIN_KEY]["shares"]) == pytest.approx(1.0)
    assert len(reconstruct([tmp_path], sigma_rel=0.1).snapshots) == 2  # the result is no snapshot


def test_other_checkpoints_in_a_folder_are_left_out_and_told(tmp_path: Path) -> None:
    for step in (50, 100):
        write(tmp_path, PowerEMA(gamma=6.0), step)
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "epoch=1.ckpt")
    made = reconstruct([tmp_path], sigma_rel=0.1)
    assert made.notes == ("1 files in the folders are no snapshots, and are left out",)
    (tmp_path / "other").mkdir()
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "other" / "x.ckpt")
    with pytest.raises(SolverError, match=r"x.ckpt: is no snapshot of an average; give files that an average with"):
        reconstruct([tmp_path, tmp_path / "other" / "x.ckpt"], sigma_rel=0.1)


# ------------------------------------------------------------------ mistakes


def test_lengths_out_of_reach_are_refused_and_poor_fits_told(tmp_path: Path) -> None:
    for step in (50, 100):
        write(tmp_path, PowerEMA(sigma_rel=0.1), step)
    made = reconstruct(tmp_path, sigma_rel=0.06)
    assert 0.1 < made.fit.residual < 0.5
    assert re.fullmatch(r"the fit is poor \(residual 0.\d\d\), and not to be relied upon", made.notes[0])
    with pytest.raises(
        SolverError,
        match=r"sigma_rel: is out of the snapshots' reach; got sigma_rel 0.01 at step 100, a fit with a residual of "
        r"0.\d\d; ask for a length nearer to 0.1 and a step nearer to a snapshot",
    ):
        reconstruct([tmp_path], sigma_rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma_rel": 0.3}, "PowerEMA.sigma_rel: is out of range; got 0.3; give a part of the run so far"),
        ({}, "PowerEMA.sigma_rel: is needed"),
        ({"sigma_rel": 0.1, "gamma": 6.0}, "PowerEMA.sigma_rel: contradicts gamma"),
        (
            {"sigma_rel": 0.1, "step": 101},
            "step: is out of the snapshots' reach; got 101; give a step after 1 and up to",
        ),
        ({"sigma_rel": 0.1, "step": 1}, "step: is out of the snapshots' reach; got 1;"),
    ],
)
def test_what_cannot_be_worked_out(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    for step in (50, 100):
        write(tmp_path, PowerEMA(gamma=6.0), step)
    with pytest.raises(SolverError, match=message):
        reconstruct([tmp_path], **arguments)


def test_two_snapshots_that_differ_are_needed(tmp_path: Path) -> None:
    first = write(tmp_path, PowerEMA(gamma=6.0), 50)
    with pytest.raises(SolverError, match=r"snapshots: at least two that differ are needed; got .*; give more"):
        reconstruct([first], sigma_rel=0.1)
    second = write(tmp_path, PowerEMA(gamma=6.0), 50, name="copy")
    with pytest.raises(SolverError, match=r"snapshots: at least two that differ are needed; got .*, .*; give more"):
        reconstruct([first, second], sigma_rel=0.1)


@pytest.mark.parametrize(
    ("average", "kwargs", "message"),
    [
        (EMA(decay=0.9), {}, "is not of a power-function average; got EMA; give snapshots of a PowerEMA"),
        (PowerEMA(gamma=5.0), {"began": 0}, "is of an average that began at another step; got after step 0, and"),
        (PowerEMA(gamma=5.0), {"began": None}, "was written before its average had begun; leave it out"),
        (PowerEMA(gamma=5.0), {"averaged": ["w"]}, "is of an average of other tensors than .*; give averages with the"),
        (PowerEMA(gamma=5.0, buffers="copy"), {}, "is of an average of other tensors than"),
        (PowerEMA(gamma=5.0), {"state": {"w": torch.ones(3)}}, r"w: has another shape; got \(.\,\), and \(.,\) in"),
        (PowerEMA(gamma=5.0), {"state": {"v": torch.ones(2)}}, "has no ., which"),
    ],
)
def test_snapshots_that_do_not_go_together(
    tmp_path: Path, average: Average, kwargs: dict[str, Any], message: str
) -> None:
    write(tmp_path, PowerEMA(gamma=6.0), 100)
    write(tmp_path, average, 100, name="other", **kwargs)
    with pytest.raises(SolverError, match=message):
        reconstruct([tmp_path], sigma_rel=0.1)


def test_snapshots_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, PowerEMA(gamma=6.0), 10)
    content = torch.load(path, weights_only=True)
    content["lightning_solver_snapshot"]["count"]["more"] = 1
    torch.save(content, path)
    with pytest.raises(SolverError, match=r"lightning_solver_snapshot: cannot be read; got .*; use the version"):
        read_snapshot(path)
    content["lightning_solver_snapshot"] = {"name": "x", "average": {"class_path": "Nothing"}, "count": vars(Count())}
    torch.save(content, path)
    with pytest.raises(SolverError, match=r"ckpt: average.class_path: there is no Average of this name; got 'Nothing'"):
        read_snapshot(path)
