"""Learning rates that are meant for a number of samples in an optimiser step."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader

from lightning_solver import OptimizerSpec, Rule, RunLength, SolverError, SolverSpec
from lightning_solver.schedules import Constant, Linear
from small import Net, Numbers, Stream, loader, spec, trainer

SGD = OptimizerSpec("SGD", {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.125})


def plan(samples: int | None, *rules: Rule, total: int = 4, **more: Any) -> Any:
    given: dict[str, Any] = {"optimizer": SGD, "base_batch_size": 256, "default_rules": False}
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    run = RunLength(total_steps=total, samples_per_step=samples)
    return SolverSpec(**{**given, **more}, rules=rules).plan(module, run=run)


@pytest.mark.parametrize(
    ("samples", "how", "factor"),
    [(256, "linear", 1.0), (1024, "linear", 4.0), (64, "linear", 0.25), (1024, "sqrt", 2.0), (64, "sqrt", 0.5), (512, "sqrt", math.sqrt(2))],
)  # fmt: skip
def test_the_rate_is_scaled(samples: int, how: Any, factor: float) -> None:
    got = plan(samples, batch_scaling=how).parameters["0.weight"]
    assert got["lr"] == 0.25 * factor
    assert (got["momentum"], got["weight_decay"]) == (0.5, 0.125)


def test_every_rate_is_scaled_wherever_it_was_given() -> None:
    rules = [Rule(match="0.weight", lr=0.5), Rule(match="0.bias", lr_scale=0.5), Rule(match="1.bias", optimizer=OptimizerSpec("AdamW", {"lr": 0.125})),
             Rule(match="1.weight", optimizer=OptimizerSpec("RMSprop", {"momentum": 0.1}))]  # fmt: skip
    made = plan(1024, *rules).parameters
    rates = {name: got["lr"] for name, got in made.items()}
    assert rates == {"0.weight": 2.0, "0.bias": 0.5, "1.weight": 1.0, "1.bias": 0.5}


def test_the_rate_of_the_solver_is_scaled_once() -> None:
    assert plan(1024, lr=0.5).parameters["0.weight"]["lr"] == 2.0
    assert plan(1024, Rule(match="*", lr=0.5), Rule(match="*", lr_scale=0.5)).parameters["0.weight"]["lr"] == 1.0


def test_rates_that_the_class_itself_gives_are_scaled_too() -> None:
    made = plan(1024, optimizer=OptimizerSpec("AdamW"))
    assert made.parameters["0.weight"]["lr"] == 0.004
    assert made.reasons["0.weight"]["lr"] == "default of AdamW, 0.001 x 4 for the number of samples in a step"


def test_it_is_told() -> None:
    made = plan(1024)
    assert made.reasons["0.weight"]["lr"] == "optimizer.args, 0.25 x 4 for the number of samples in a step"
    assert "0.25 x 4 for the number of samples in a step" in made.table(parameters=True)


def test_a_schedule_s_factors_are_of_the_scaled_rate() -> None:
    made = plan(1024, schedules={"lr": Linear(1.0, 0.0)})
    assert made.curve("lr")[:, 0].tolist() == [1.0, 0.75, 0.5, 0.25]


def test_weight_decay_momentum_and_layers_keep_their_own() -> None:
    made = plan(1024, layer_decay=0.5, depth=("^0", "^1"))
    assert [made.parameters[name]["lr"] for name in ("0.weight", "1.weight")] == [0.5, 1.0]


def test_an_unknown_number_of_samples_is_an_error() -> None:
    message = "base_batch_size: needs the number of samples in an optimiser step, which is not known; got 256; give"
    with pytest.raises(SolverError, match=re.escape(message)):
        plan(None)
    assert plan(None, base_batch_size=None).parameters["0.weight"]["lr"] == 0.25


@pytest.mark.parametrize(
    "given", [{"base_batch_size": 0}, {"base_batch_size": -4}, {"batch_scaling": "cubic"}, {"base_batch_size": 1.5}]
)
def test_what_makes_no_sense(given: dict[str, Any]) -> None:
    (field,) = given
    with pytest.raises(SolverError, match=field):
        SolverSpec(**given)


def test_a_way_of_scaling_without_a_number_to_scale_by_is_refused() -> None:
    with pytest.raises(SolverError, match="batch_scaling"):
        SolverSpec(batch_scaling="sqrt")


def test_it_is_plain_data() -> None:
    block = {"base_batch_size": 256, "batch_scaling": "sqrt", "version": 1}
    assert SolverSpec.from_dict(block).to_dict() == block


# ------------------------------------------------------------------ in a Trainer


def fit(net: Net, data: Any = None, **kwargs: Any) -> Any:
    run = trainer(**{"max_epochs": 1, **kwargs})
    run.fit(net, loader(40) if data is None else data)
    return run


def scaled(**changes: Any) -> Net:
    torch.manual_seed(0)
    return Net(spec(**{"base_batch_size": 2, "rules": [], "schedules": {}, **changes}))


@pytest.mark.parametrize(("accumulate", "rate"), [(1, 0.02), (2, 0.04), (5, 0.1)])
def test_a_trainer_counts_batches_and_accumulation(accumulate: int, rate: float) -> None:
    net = scaled()
    fit(net, accumulate_grad_batches=accumulate)
    assert net.used[0] == pytest.approx([rate] * 2)
    assert net.solver_plan is not None
    assert net.solver_plan.run.samples_per_step == 4 * accumulate


def test_a_batch_sampler_tells_its_size() -> None:
    data = Numbers(40)
    net = scaled()
    sampler = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(data), batch_size=8, drop_last=False)
    fit(net, DataLoader(data, batch_sampler=sampler))
    assert net.used[0] == pytest.approx([0.04] * 2)


def test_a_stream_tells_its_size_too() -> None:
    net = scaled()
    fit(net, DataLoader(Stream(40), batch_size=4), max_steps=4, max_epochs=-1)
    assert net.used[0] == pytest.approx([0.02] * 2)


def test_a_loader_without_a_size_is_an_error_before_the_first_step() -> None:
    with pytest.raises(SolverError, match="base_batch_size: needs the number of samples in an optimiser step"):
        fit(scaled(), DataLoader(Numbers(4), batch_size=None))


def test_the_rate_that_is_read_may_be_set_again() -> None:
    """``solver_lr`` is the number of the specification: LR finders read, vary and set it."""
    net = scaled()
    assert net.solver_lr == 0.01
    fit(net)
    assert net.solver_lr == pytest.approx(0.01)
    net.solver_lr = net.solver_lr
    assert net.solver is not None
    assert net.solver.lr == pytest.approx(0.01)
    net.solver_lr = 0.5
    assert net.solver_lr == pytest.approx(0.5)
    assert net.solver_plan is not None
    assert {group.options["lr"] for group in net.solver_plan.groups} == {1.0}


class Stepped(Net):
    """Notes the rates with which steps were really made, the finder's too."""

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        self.steps: list[list[float]] = []
        note = lambda optimizer, *_: self.steps.append([group["lr"] for group in optimizer.param_groups])  # noqa: E731
        made["optimizer"].register_step_post_hook(note)
        return made


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_the_finder_has_tried_is_what_the_run_then_takes(tmp_path: Any) -> None:
    """For the finder's suggestion the optimiser has the rate at which the finder saw the loss fall."""
    torch.manual_seed(0)
    rules = [Rule(match="head.*", lr_scale=0.5)]
    net = Stepped(spec(base_batch_size=2, rules=rules, schedules={}))
    run = trainer(max_epochs=1, default_root_dir=tmp_path)
    found = Tuner(run).lr_find(net, loader(400), min_lr=1e-4, max_lr=1e-1, num_training=20, attr_name="solver_lr")
    assert found is not None
    ratios = {max(rates) / lr for rates, lr in zip(net.steps, found.results["lr"])}
    ratio = min(ratios)
    assert max(ratios) == pytest.approx(ratio, rel=1e-6)
    suggestion = found.suggestion()
    fit(net, loader(400))
    assert max(net.steps[0]) == pytest.approx(suggestion * ratio)
    assert min(net.steps[0]) == pytest.approx(max(net.steps[0]) / 2)


def test_absolute_values_of_schedules_are_what_they_are() -> None:
    made = plan(1024, schedules={"lr": Constant({"absolute": 0.125})})
    assert made.curve("lr")[:, 0].tolist() == [0.125] * 4


def test_the_rate_that_is_set_moves_every_group_in_proportion():
    rules = [
        Rule(match="head.weight", lr=0.2),
        Rule(match="backbone.*", optimizer=OptimizerSpec("SGD", {"lr": 0.4, "momentum": 0.9})),
    ]
    net = Net(spec(rules=rules, schedules={}))
    before = {name: options["lr"] for name, options in net.solver.plan(net, total_steps=3).parameters.items()}
    net.solver_lr = 3 * net.solver_lr
    after = {name: options["lr"] for name, options in net.solver.plan(net, total_steps=3).parameters.items()}
    assert after == pytest.approx({name: 3 * lr for name, lr in before.items()})
