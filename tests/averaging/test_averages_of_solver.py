"""Averages as a part of the block: in the plan, in training, in YAML, for several optimisers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schedulefree
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from averaging_cases import (
    STEPS,
    Net,
    average_of,
    close,
    data,
    ema,
    equal,
    everything,
    far,
    fit,
    live_of,
    make_trainer,
    mean,
    of_state,
    other_data,
    vector,
)
from lightning_solver import OptimizerSpec, Rule, SolverCLI, SolverError, SolverMixin, SolverSpec
from lightning_solver.averaging import EMA, SWA, Average, PowerEMA, PowerWarmup, SlowStart, UpdateBN
from lightning_solver.averaging.weight_sets import KEY
from lightning_solver.callbacks import EMA as EMACallback
from lightning_solver.callbacks import SWA as SWACallback
from lightning_solver.schedules import Constant, Linear
from lightning_solver.schema import block_schema

pytestmark = [
    # Lightning's advice about what these tests do on purpose, and its own use of jsonargparse
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

DECAY = 0.8


class Solved(SolverMixin, Net):
    """The module of the other tests, with a solver."""

    def __init__(self, solver: SolverSpec | None = None, batch_norm: bool = False) -> None:
        super().__init__(batch_norm)
        self.solver = solver

    configure_optimizers = SolverMixin.configure_optimizers

    def train_dataloader(self) -> Any:
        return data()

    def val_dataloader(self) -> Any:
        return other_data()

    test_dataloader = val_dataloader


def spec(averages: Any = None, **changes: Any) -> SolverSpec:
    given: dict[str, Any] = {"optimizer": OptimizerSpec("SGD", {"lr": 0.1}), "averages": averages or {}}
    return SolverSpec(**{**given, **changes})


def saved(path: Any) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def each_epoch(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)


def plan(averages: Any, total: int | None = 100, module: Any = None, **changes: Any) -> Any:
    module = Net(batch_norm=True) if module is None else module
    return spec(averages, **changes).plan(module, total_steps=total, steps_per_epoch=10)


# ---------------------------------------------------------------------- the same as the callbacks

SAME: dict[str, tuple[Average, Callback]] = {
    "EMA": (EMA(DECAY, start=3, every=2), EMACallback(DECAY, start=3, every=2)),
    "SWA": (SWA(start="50%", every=1, keep="live"), SWACallback(start="50%", every=1, keep="live")),
    "half-life": (EMA(half_life="1/2ep", warmup=PowerWarmup()), EMACallback(half_life="1/2ep", warmup=PowerWarmup())),
    "some": (EMA(DECAY, only=["layers.0.*"]), EMACallback(DECAY, only=["layers.0.*"])),
}


@pytest.mark.parametrize("name", SAME)
def test_an_average_of_the_solver_is_the_callback_of_the_same_name(name: str, tmp_path: Path) -> None:
    average, callback = SAME[name]
    with_spec, alone = Solved(spec({"mean": average})), Net()
    fit(with_spec, each_epoch(tmp_path / "a"))
    fit(alone, callback, each_epoch(tmp_path / "b"))
    assert equal(with_spec.trail, alone.trail)
    assert torch.equal(vector(with_spec), vector(alone))
    assert [stage for stage, _ in with_spec.saw] == [stage for stage, _ in alone.saw]
    assert all(torch.equal(here, there) for (_, here), (_, there) in zip(with_spec.saw, alone.saw))
    (averaged,) = callback.averaged.values()  # type: ignore[attr-defined]
    assert equal(everything(with_spec.solver_averages["mean"]), everything(averaged))
    first, second = (saved(tmp_path / folder / "epoch=1.ckpt") for folder in "ab")
    assert torch.equal(of_state(first["state_dict"]), of_state(second["state_dict"]))
    assert first[KEY]["averages"]["mean"] == second[KEY]["averages"][callback.name]  # type: ignore[attr-defined]


def test_the_averages_of_a_module_can_be_looked_at() -> None:
    net = Solved(spec({"fast": EMA(0.5), "slow": EMA(0.9, evaluated=False)}))
    assert net.solver_averages == {}
    trainer = fit(net)
    assert {*net.solver_averages} == {"fast", "slow"}
    close(average_of(net.solver_averages["slow"]), ema(net.trail, 0.9))
    assert torch.equal(live_of(net.solver_averages["fast"]), net.trail[-1])
    trainer.test(net, verbose=False)
    close(net.saw[-1][1], ema(net.trail, 0.5))


def test_a_solver_without_averages_has_none(tmp_path: Path) -> None:
    net = Solved(spec())
    fit(net, each_epoch(tmp_path))
    assert net.solver_averages == {}
    assert KEY not in saved(tmp_path / "epoch=1.ckpt")
    assert net.solver_plan is not None
    assert net.solver_plan.averages == {}


def test_only_what_the_solver_trains_is_averaged() -> None:
    """A parameter that a rule leaves out is used as it is, and so is one that another optimiser has."""
    net = Solved(spec({"ema": EMA(DECAY)}, rules=[Rule(match="layers.0.*", frozen=True)]), batch_norm=True)
    fit(net)
    names = {"layers.1.weight", "layers.1.bias", "layers.1.running_mean", "layers.1.running_var"}
    assert {*net.solver_averages["ema"].names} == {*names, "layers.3.weight", "layers.3.bias"}


def test_the_learning_rate_of_swa_is_a_phase_of_the_schedule() -> None:
    phases = [Linear(end=0.5, until="50%"), Constant(0.5)]
    net = Solved(spec({"swa": SWA(start="50%", every=1)}, schedules={"lr": phases}))
    fit(net)
    close(vector(net), mean(net.trail[9:]))
    assert net.solver_plan is not None
    assert net.solver_plan.curve("lr")[10:].tolist() == [[0.05]] * 10


# ---------------------------------------------------------------------- the plan


def test_the_plan_says_what_is_averaged_when_and_at_what_cost() -> None:
    table = str(plan({"ema": EMA(0.9, start=10), "tail": SWA(start="80%", every=1, evaluated=False)}))
    assert "averages of the weights" in table
    lines = {line.split()[0]: line for line in table.splitlines() if line.startswith("  ") and "from step" in line}
    numbers = 4 * 6 + 6 + 6 + 6 + 6 + 6 + 6 + 1  # two linear layers, and a batch norm with its two statistics
    cost = f"8 tensors, {4 * numbers} B"
    assert (
        lines["ema"].strip() == f"ema   EMA decay 0.9; from step 10, 91 updates; {cost}; evaluated, saved as state_dict"
    )
    assert lines["tail"].strip() == f"tail  SWA every 1; from step 80, 21 updates; {cost}"


def test_the_plan_has_averages_as_data() -> None:
    planned = plan({"ema": EMA(0.9, start="1ep", only="layers.0.*")}).averages["ema"]
    assert planned.names == ("layers.0.weight", "layers.0.bias")
    assert (planned.start, planned.updates, planned.evaluated) == (10, 91, True)
    assert planned.memory == 4 * (4 * 6 + 6)


def test_a_plan_of_half_precision_counts_the_average_in_float32() -> None:
    averages = {"ema": EMA(0.9), "same": EMA(0.9, dtype="same", evaluated=False)}
    found = plan(averages, module=Net().bfloat16()).averages
    assert found["ema"].memory == 2 * found["same"].memory


@pytest.mark.parametrize(
    ("average", "note"),
    [
        (EMA(0.9, start=101), "begins after step 101, but the run ends after 100: the trained weights are evaluated"),
        (SWA(start="20ep"), "begins after step 200, but the run ends after 100: the trained weights are evaluated"),
        (EMA(half_life=1000), "93% of it are the weights that it began with when the run ends; give it a shorter"),
        (EMA(0.9999), "remembers some 10,000 steps: 99% of it are the weights that it began with"),
        (EMA(1.0), "never takes in anything: 100% of it are the weights"),
    ],
    ids=["late EMA", "late SWA", "half-life", "decay", "one"],
)
def test_what_is_odd_is_noted_before_training(average: Average, note: str) -> None:
    notes = [line for line in plan({"mean": average}).notes if line.startswith("averages.mean")]
    assert len(notes) == 1
    assert note in notes[0]


@pytest.mark.parametrize("average", [EMA(0.9), EMA(0.9999, warmup=PowerWarmup()), SWA(), PowerEMA(0.1)], ids=str)
def test_what_is_not_odd_is_not_noted(average: Average) -> None:
    assert [line for line in plan({"mean": average}).notes if "averages" in line] == []


def test_a_late_start_is_said_once_and_the_training_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    net = Solved(spec({"ema": EMA(DECAY, start=100)}))
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net)
    assert torch.equal(vector(net), net.trail[-1])
    assert caplog.text.count("but the run ends after 20") == 1


@pytest.mark.parametrize(
    ("averages", "changes", "match"),
    [
        (
            {"ema": EMA(0.9, only="layer.*")},
            {},
            r"averages\.ema\.only: matches no parameter or buffer; got 'layer\.\*'",
        ),
        ({"ema": EMA(0.9, leave_out=["layers.*"])}, {}, r"averages\.ema: there is nothing to average"),
        ({"ema": EMA(0.9, start="5sp")}, {}, r"averages\.ema\.start: .*5sp"),
        (
            {"ema": EMA(0.9)},
            {"optimizer": OptimizerSpec("schedulefree.SGDScheduleFree")},
            r"averages the weights itself",
        ),
    ],
    ids=["no match", "nothing left", "unknown length", "schedule-free"],
)
def test_what_cannot_be_is_an_error_of_the_plan(averages: Any, changes: Any, match: str) -> None:
    assert schedulefree is not None
    with pytest.raises(SolverError, match=match):
        plan(averages, **changes)


def test_two_that_would_be_evaluated_are_an_error_of_the_block() -> None:
    with pytest.raises(
        SolverError, match=r"averages: only one of the averages can be evaluated.*got a, b; say evaluated"
    ):
        spec({"a": EMA(0.9), "b": EMA(0.5)})


@pytest.mark.parametrize("name", ["", "a.b", "a b"])
def test_a_name_that_cannot_be_one(name: str) -> None:
    with pytest.raises(SolverError, match="cannot be the name of an average"):
        spec({name: EMA(0.9)})


# ---------------------------------------------------------------------- beside callbacks


def test_averages_of_the_solver_and_of_callbacks_are_an_error() -> None:
    net = Solved(spec({"a": EMA(0.9)}))
    what = r"averages: are asked for by the solver and by callbacks; got EMA in the Trainer; say all of them in"
    with pytest.raises(SolverError, match=what):
        fit(net, EMACallback(0.5, evaluated=False))
    assert net.trail == []


def test_a_callback_beside_a_solver_without_averages() -> None:
    net = Solved(spec())
    fit(net, EMACallback(DECAY))
    close(vector(net), ema(net.trail, DECAY))


def test_beside_one_of_lightnings_own() -> None:
    with pytest.raises(SolverError, match="two callbacks would both change the weights"):
        fit(Solved(spec({"a": EMA(0.9)})), EMAWeightAveraging(decay=0.9))


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize("file", ["epoch=0", "epoch=1"])
def test_a_resumed_run_is_the_straight_one(file: str, tmp_path: Path) -> None:
    solver = spec({"ema": EMA(half_life="1/3ep", every="1.5"), "swa": SWA(start="40%", evaluated=False)})
    whole, again = Solved(solver, batch_norm=True), Solved(solver, batch_norm=True)
    fit(whole, each_epoch(tmp_path))
    fit(again, ckpt_path=tmp_path / f"{file}.ckpt")
    for name in ("ema", "swa"):
        assert equal(everything(again.solver_averages[name]), everything(whole.solver_averages[name]))
        assert again.solver_averages[name].count == whole.solver_averages[name].count
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in whole.state_dict().items())


def test_training_goes_on_from_the_live_weights_where_the_averages_are_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(Solved(spec({"ema": EMA(DECAY)})), each_epoch(tmp_path))
    whole, again = Solved(spec()), Solved(spec())
    fit(whole)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(again, each_epoch(tmp_path / "again"), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert equal(again.trail, whole.trail[STEPS:])
    assert KEY not in saved(tmp_path / "again/epoch=1.ckpt")
    assert "the checkpoint has averages that are not there any more, and are dropped: ema" in caplog.text


def test_averages_that_are_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(Solved(spec()), each_epoch(tmp_path))
    net = Solved(spec({"ema": EMA(DECAY, start=15)}))
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert "the checkpoint does not have ema: averages the weights from here on" in caplog.text
    close(vector(net), ema(net.trail[4:], DECAY))


def test_from_the_solver_to_a_callback_and_back(tmp_path: Path) -> None:
    """An average is known by its name, whoever asks for it."""
    whole = Solved(spec({"ema": EMA(DECAY)}))
    fit(whole, each_epoch(tmp_path))
    callback = EMACallback(DECAY)
    fit(Solved(spec()), callback, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert equal(everything(callback.averaged["ema"]), everything(whole.solver_averages["ema"]))


def test_a_checkpoint_of_the_solver_is_one_of_plain_data(tmp_path: Path) -> None:
    solver = spec({"ema": EMA(0.9, warmup=SlowStart(10), update_bn=UpdateBN(2), only=["layers.*"])})
    fit(Solved(solver, batch_norm=True), each_epoch(tmp_path))
    found = saved(tmp_path / "epoch=1.ckpt")
    assert found[KEY]["averages"]["ema"]["count"]["steps"] == 20
    assert found["lr_schedulers"][0]["spec"] == solver.to_dict()


# ---------------------------------------------------------------------- several optimisers


class Pair(SolverMixin, Net):
    """The first layer is trained by one optimiser, which steps twice for a batch, and the last by another."""

    def __init__(self, solver: dict[str, SolverSpec] | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.solver = solver

    configure_optimizers = SolverMixin.configure_optimizers

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for name in ("body", "head", "body"):
            with self.solver_turn(name) as turn:
                turn.step(self.loss(batch))

    def train_dataloader(self) -> Any:
        return data()

    def val_dataloader(self) -> Any:
        return other_data()


def pair(body: Any = None, head: Any = None) -> dict[str, SolverSpec]:
    return {
        "body": spec(body, batches_per_step="1/2", only=["layers.0.*"]),
        "head": spec(head, only=["layers.3.*"]),
    }


FIRST = 30  # numbers of the first layer: 4 * 6 + 6


def test_averages_of_several_optimisers_count_their_own_steps(tmp_path: Path) -> None:
    net = Pair(pair({"ema": EMA(DECAY)}, {"swa": SWA(start=5, every=1)}))
    fit(net, each_epoch(tmp_path))
    assert {*net.solver_averages} == {"body.ema", "head.swa"}
    body, head = net.solver_averages["body.ema"], net.solver_averages["head.swa"]
    assert (body.count.steps, head.count.steps) == (40, 20)
    first = [point[:FIRST] for point in net.trail]
    rest = [point[FIRST:] for point in net.trail]
    close(average_of(body), ema(first, DECAY**2))
    close(average_of(head), mean(rest[4:]))
    close(vector(net), torch.cat([ema(first, DECAY**2), mean(rest[4:])]))
    found = saved(tmp_path / "epoch=1.ckpt")
    assert found[KEY]["state_dict"] == ["body.ema", "head.swa"]
    close(of_state(found["state_dict"]), vector(net))
    assert torch.equal(of_state(found[KEY]["live"]), net.trail[-1])


def test_several_optimisers_are_resumed_bitwise(tmp_path: Path) -> None:
    solver = pair({"ema": EMA(DECAY)}, {"ema": EMA(0.5), "b": EMA(0.9, evaluated=False)})
    whole, again = Pair(solver), Pair(solver)
    fit(whole, each_epoch(tmp_path))
    fit(again, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert {*again.solver_averages} == {"body.ema", "head.ema", "head.b"}
    for name, averaged in whole.solver_averages.items():
        assert equal(everything(again.solver_averages[name]), everything(averaged))


def test_one_optimiser_has_an_average_and_the_other_has_none() -> None:
    net = Pair(pair({"ema": EMA(DECAY)}))
    trainer = fit(net)
    close(vector(net)[:FIRST], ema([point[:FIRST] for point in net.trail], DECAY**2))
    assert torch.equal(vector(net)[FIRST:], net.trail[-1][FIRST:])
    trainer.validate(net, verbose=False)
    assert torch.equal(net.saw[-1][1], vector(net))


def test_two_evaluated_averages_of_one_optimiser_are_an_error_that_names_it() -> None:
    with pytest.raises(SolverError, match="only one of the averages can be evaluated"):
        pair({"a": EMA(0.9), "b": EMA(0.5)})


# ---------------------------------------------------------------------- YAML

BLOCK = """
optimizer: {name: SGD, args: {lr: 0.1}}
averages:
  ema:
    class_path: EMA
    init_args:
      decay: 0.8
      start: 1/2ep
      warmup: {class_path: PowerWarmup, init_args: {gamma: 2.0}}
  tail: {class_path: SWA, init_args: {start: 50%, every: 1, evaluated: false}}
  power: {class_path: PowerEMA, init_args: {sigma_rel: 0.1, evaluated: false, leave_out: ["layers.3.*"]}}
"""
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "max_epochs": 2,
}


class TopLevel(Solved):
    def __init__(self) -> None:
        super().__init__()


def configured(tmp_path: Path, where: str, block: Any) -> str:
    config: dict[str, Any] = {"trainer": {**QUIET, "default_root_dir": str(tmp_path)}}
    config |= {"solver": block} if where == "solver" else {"model": {"solver": block}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.mark.parametrize(
    ("cls", "where", "module"),
    [(SolverCLI, "solver", TopLevel), (SolverCLI, "model.solver", Solved), (LightningCLI, "model.solver", Solved)],
    ids=["top level", "argument", "LightningCLI"],
)
def test_averages_in_yaml(cls: Any, where: str, module: Any, tmp_path: Path) -> None:
    path = configured(tmp_path, where, yaml.safe_load(BLOCK))
    run = cls(module, args=["fit", "--config", path], save_config_callback=None)
    net = run.model
    assert net.solver.averages == {
        "ema": EMA(0.8, start="1/2ep", warmup=PowerWarmup(gamma=2.0)),
        "tail": SWA(start="50%", every=1, evaluated=False),
        "power": PowerEMA(0.1, evaluated=False, leave_out=["layers.3.*"]),
    }
    assert torch.equal(vector(net), average_of(net.solver_averages["ema"]))
    close(average_of(net.solver_averages["tail"]), mean(net.trail[9:]))
    assert net.solver_averages["power"].names == ("layers.0.weight", "layers.0.bias")


def test_an_average_is_changed_on_the_command_line(tmp_path: Path) -> None:
    path = configured(tmp_path, "model.solver", yaml.safe_load(BLOCK))
    new = '{"ema": {"class_path": "EMA", "init_args": {"decay": 0.5}}}'
    run = SolverCLI(Solved, args=["fit", "--config", path, f"--model.solver.averages={new}"], save_config_callback=None)
    assert run.model.solver.averages["ema"].decay == 0.5


@pytest.mark.parametrize(
    ("averages", "match"),
    [
        ({"ema": {"class_path": "EMA", "init_args": {"decya": 0.9}}}, "decya"),
        ({"ema": {"class_path": "EMMA", "init_args": {"decay": 0.9}}}, "EMMA"),
        ({"ema": {"class_path": "EMA", "init_args": {"decay": 1.9}}}, "must be from 0 to 1"),
        ({"ema": {"class_path": "EMA", "init_args": {"decay": 0.9, "keep": "both"}}}, "both"),
        ({"ema": {"class_path": "EMA"}}, "decay"),
    ],
    ids=["argument", "class", "decay", "choice", "nothing"],
)
def test_a_block_that_is_wrong_is_refused(averages: Any, match: str) -> None:
    with pytest.raises(SolverError, match=match):
        SolverSpec.from_dict({"optimizer": {"name": "SGD", "args": {"lr": 0.1}}, "averages": averages})


# ---------------------------------------------------------------------- the schema

SCHEMA = jsonschema.Draft202012Validator(block_schema())
VALID: dict[str, Any] = yaml.safe_load(BLOCK)["averages"]


def complaints(averages: Any) -> list[str]:
    block = {"optimizer": {"name": "SGD", "args": {"lr": 0.1}}, "averages": averages}
    return [error.message for error in SCHEMA.iter_errors(block)]


def test_the_schema_takes_what_is_right() -> None:
    assert complaints(VALID) == []
    assert complaints(spec({"ema": EMA(0.9, update_bn=UpdateBN(3, at="validation"))}).to_dict()["averages"]) == []
    assert complaints(spec({"ema": EMA(half_life="1ep", only=("a", "b"), device="cpu")}).to_dict()["averages"]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"ema": {"class_path": "EMA", "init_args": {"decya": 0.9}}},
        {"ema": {"class_path": "EMMA", "init_args": {"decay": 0.9}}},
        {"ema": {"class_path": "EMA", "init_args": {"decay": "much"}}},
        {"ema": {"class_path": "EMA", "init_args": {"decay": 0.9, "keep": "both"}}},
        {"ema": {"class_path": "EMA", "init_args": {"decay": 0.9, "update_bn": {"batch": 3}}}},
        {"ema": {"class_path": "EMA", "init_args": {"decay": 0.9, "warmup": {"class_path": "Cosine"}}}},
        {"ema": 0.9},
        [{"class_path": "EMA", "init_args": {"decay": 0.9}}],
    ],
    ids=["argument", "class", "type", "choice", "inner", "warm-up", "number", "list"],
)
def test_the_schema_refuses_what_is_wrong(wrong: Any) -> None:
    assert complaints(wrong)
    with pytest.raises(SolverError):
        SolverSpec.from_dict({"optimizer": {"name": "SGD", "args": {"lr": 0.1}}, "averages": wrong})


def test_a_block_is_what_its_dictionary_says() -> None:
    for averages in ({"ema": EMA(0.9, warmup=SlowStart(10))}, {"a": SWA(), "b": PowerEMA(gamma=3.0, evaluated=False)}):
        assert SolverSpec.from_dict(spec(averages).to_dict()) == spec(averages)


def test_a_second_fit_goes_on() -> None:
    straight, net = Solved(spec({"ema": EMA(DECAY)})), Solved(spec({"ema": EMA(DECAY)}))
    fit(straight, max_epochs=2)
    fit(net, max_epochs=1)
    again = make_trainer(max_epochs=1)
    again.fit(net)
    points: list[Tensor] = net.trail
    assert equal(points, straight.trail)
    assert equal(everything(net.solver_averages["ema"]), everything(straight.solver_averages["ema"]))
    assert far(vector(net), points[-1])


def test_the_user_can_let_go_of_the_live_weights() -> None:
    net = Solved(spec({"ema": EMA(DECAY)}))
    fit(net, max_epochs=1)
    average = vector(net)
    assert far(average, net.trail[-1])
    net.release_averages()
    assert not net.solver_averages
    assert torch.equal(vector(net), average)
    net.trail.clear()
    make_trainer(max_epochs=1).fit(net)
    again = Solved(spec({"ema": EMA(DECAY)}))
    torch.nn.utils.vector_to_parameters(average, again.parameters())
    make_trainer(max_epochs=1).fit(again)
    assert equal(net.trail, again.trail)
