"""``clip_grad_norm_`` and ``clip_grad_value_`` in scripts, and Lightning's own keys, as a spec."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from lightning_solver import SolverError, SolverMixin, SolverSpec
from lightning_solver.clipping import GlobalNorm, Value
from lightning_solver.interop import from_torch

CASES = json.loads((Path(__file__).parent.parent / "golden" / "clip_torch.json").read_text())


@pytest.mark.parametrize("form", ["config", "config_py"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_torch_gave_the_same(case, form):
    spec = from_torch(case[form], strict=True).spec
    assert SolverSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    tensors = [torch.zeros(torch.tensor(g).shape, dtype=torch.float64) for g in case["setting"]["grads"]]
    for tensor, gradient in zip(tensors, case["setting"]["grads"], strict=True):
        tensor.grad = torch.tensor(gradient, dtype=torch.float64)
    clipped = spec.clip.apply(tensors)
    for tensor, value in zip(tensors, case["values"], strict=True):
        torch.testing.assert_close(tensor.grad, torch.tensor(value, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    if "total_norm" in case:
        assert float(clipped.norm) == pytest.approx(case["total_norm"], rel=1e-9)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(3, 4), nn.Linear(4, 2)


SCRIPT = """
from torch.nn.utils import clip_grad_norm_
limit = 0.25 * 2
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)
for epoch in range(100):
    for batch in loader:
        loss = model(batch)
        loss.backward()
        {}
        optimizer.step()
    scheduler.step()
"""
CALLS = {
    "clip_grad_norm_(model.parameters(), limit)": GlobalNorm(0.5),
    "nn.utils.clip_grad_norm_(model.parameters(), max_norm=limit, norm_type=1)": GlobalNorm(0.5, 1.0),
    "total = clip_grad_norm_(model.parameters(), limit, foreach=False)": GlobalNorm(0.5),
    "clip_grad_value_(model.parameters(), clip_value=limit)": Value(0.5),
    "clip_grad_value_(list(model.head.parameters()), limit)": Value(0.5, of={"match": "head.*"}),
    "clip_grad_norm_([p for n, p in model.named_parameters() if 'bias' not in n], limit)": GlobalNorm(
        0.5, of={"match": "*"}, unless=({"match": "*bias*"},)
    ),
    "clip_grad_norm_([p for p in model.parameters() if p.requires_grad], limit)": GlobalNorm(0.5),
    "clip_grad_norm_([p for g in optimizer.param_groups for p in g['params']], limit)": GlobalNorm(0.5),
    "accelerator.clip_grad_norm_(model.parameters(), limit)": GlobalNorm(0.5),
}


def run(statement, module):
    """What a statement does to the gradients of a module, which are given here."""
    for i, parameter in enumerate(module.parameters()):
        parameter.grad = torch.linspace(-2, 3, parameter.numel()).reshape(parameter.shape) * (i + 1)
    if isinstance(statement, str):
        names = {"nn": nn, "clip_grad_norm_": clip_grad_norm_, "clip_grad_value_": clip_grad_value_}
        names["optimizer"] = torch.optim.SGD(module.parameters(), lr=0.1)
        exec(statement, names | {"model": module, "limit": 0.5})  # of the table above
    else:
        statement.apply(module)
    return [parameter.grad for parameter in module.parameters()]


@pytest.mark.parametrize("statement", CALLS)
def test_a_call_in_a_loop(statement):
    imported = from_torch(SCRIPT.format(statement), facts={"step_on": "epoch"}, strict=True)
    assert imported.spec.clip == CALLS[statement]
    without = from_torch(SCRIPT.format("pass"), facts={"step_on": "epoch"}).spec
    assert imported.spec == without.replace(clip=imported.spec.clip)
    if "accelerator" not in statement and "requires_grad" not in statement:
        ours, theirs = run(imported.spec.clip, Net()), run(statement, Net())
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_several_calls_act_one_after_another():
    both = "clip_grad_value_(model.parameters(), 0.5); clip_grad_norm_(model.parameters(), 1.0)"
    spec = from_torch(SCRIPT.format(both), facts={"step_on": "epoch"}).spec
    assert spec.clip == (Value(0.5), GlobalNorm(1.0))


@pytest.mark.parametrize("written", ["float('inf')", "math.inf", "torch.inf", "np.inf", "'inf'"])
def test_the_greatest_value_as_a_norm(written):
    spec = from_torch(f"clip_grad_norm_(model.parameters(), 1.0, norm_type={written})", strict=True).spec
    assert spec.clip == GlobalNorm(1.0, "inf")


def test_an_infinite_limit_only_measures():
    config = "clip_grad_norm_(model.parameters(), float('inf'), error_if_nonfinite=True)"
    imported = from_torch(config, strict=True)
    assert (imported.spec.clip, imported.spec.nonfinite) == (None, "error")
    assert imported.notes == ("clip_grad_norm_: has an infinite limit: nothing is clipped, only the norm is measured",)
    assert from_torch("clip_grad_norm_(model.parameters(), 1.0)").spec.nonfinite is None


@pytest.mark.parametrize(
    "config",
    [
        {"clip": "clip_grad_norm_(parameters, max_norm=2.0)"},
        {"clip": {"type": "torch.nn.utils.clip_grad_norm_", "max_norm": 2.0}},
        {"clip_grad_norm_": {"max_norm": 2.0}},
        "clip_grad_norm_(model.parameters(), 2.0)",
        "norm = nn.utils.clip_grad_norm_(model.parameters(), 2.0)",
    ],
)
def test_forms(config, tmp_path):
    assert from_torch(config, strict=True).spec.clip == GlobalNorm(2.0)
    if isinstance(config, str):
        path = tmp_path / "train.py"
        path.write_text(config)
        assert from_torch(path, strict=True).spec.clip == GlobalNorm(2.0)
    else:
        more = {**config, "schedulers": ["StepLR(optimizer, 3)"]}
        assert from_torch(more, facts={"step_on": "epoch"}, strict=True).spec.clip == GlobalNorm(2.0)


ACCUMULATED = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, batch in enumerate(loader):
    (model(batch) / 4).backward()
    if (i + 1) % 4 == 0 or i + 1 == len(loader):
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
"""


def test_steps_every_so_many_batches_are_noted():
    imported = from_torch(ACCUMULATED)
    assert imported.spec.clip == GlobalNorm(1.0)
    assert imported.unmapped == ("(i + 1) % 4 == 0 or i + 1 == len(loader)",)
    assert any("write accumulate: 4 for every four" in note for note in imported.notes)
    for other in ("scheduler.step()", "optimizer.zero_grad()", "timer.step(3)"):
        assert from_torch(ACCUMULATED.replace("optimizer.step()", other), strict=True).spec.clip == GlobalNorm(1.0)


def test_a_condition_is_said():
    imported = from_torch("if args.clip:\n    clip_grad_norm_(model.parameters(), 1.0)", strict=True)
    assert imported.spec.clip == GlobalNorm(1.0)
    assert "clip_grad_norm_: stands under a condition that is taken to hold: args.clip" in imported.notes
    other = from_torch("if a:\n    pass\nelse:\n    clip_grad_norm_(model.parameters(), 1.0)", strict=True)
    assert "clip_grad_norm_: stands under a condition that is taken to hold: not (a)" in other.notes


@pytest.mark.parametrize(
    ("config", "unmapped"),
    [
        ("clip_grad_norm_(model.parameters(), args.clip)", "clip_grad_norm_.max_norm"),
        ("clip_grad_norm_(model.parameters(), 1.0, norm_type=args.norm)", "clip_grad_norm_.norm_type"),
        ("clip_grad_value_(chosen(model), 1.0)", "clip_grad_value_.parameters"),
        ("clip_grad_norm_([*a.head.parameters(), *b.parameters()][:2], 1.0)", "clip_grad_norm_.parameters"),
        ("for batch in loader:\n    clip_grad_norm_(**options)", "clip_grad_norm_"),
        ("clip_grad_norm_(optimizer.param_groups[0]['params'], 1.0)", "clip_grad_norm_.parameters"),
    ],
)
def test_what_cannot_be_told_is_not_mapped(config, unmapped):
    imported = from_torch(config + "\nSGD(model.parameters(), lr=0.1)")
    assert imported.spec.clip is None
    assert imported.unmapped == (unmapped,)


def test_an_argument_that_torch_does_not_know():
    imported = from_torch("clip_grad_norm_(model.parameters(), 1.0, norm_typ=2)")
    assert imported.unmapped == ("clip_grad_norm_.norm_typ",)
    assert "did you mean norm_type" in imported.notes[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "clip_grad_norm_(parameters, 0)",
            r"^clip_grad_norm_\.max_norm: must be above 0.*; got 0; correct it, or leave",
        ),
        ("clip_grad_value_(parameters, -0.1)", r"^clip_grad_value_\.clip_value: must be above 0.*; got -0\.1"),
        ("clip_grad_norm_(parameters)", r"^clip_grad_norm_\.max_norm: is missing"),
        ("clip_grad_norm_(parameters, 1.0, norm_type=-2)", r"norm_type: is not an order of a norm; got -2"),
        ("clip_grad_norm_(parameters, 1.0, 2, True, True, 1)", "has too many arguments"),
        ("clip_grad_norm_(parameters, 1.0, error_if_nonfinite=1)", "error_if_nonfinite: must be true or false"),
        ({"clip": "dispatch(1.0)"}, "^clip: is not a function that clips gradients; got 'dispatch'"),
        ({"clip": 3}, "^clip: is not a constructor call; got 3"),
    ],
)
def test_mistakes(config, message):
    with pytest.raises(SolverError, match=message):
        from_torch(config)


# ------------------------------------------------------------------ Lightning's own keys

OPTIMIZER = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


def of_cli(**trainer):
    return from_torch({"optimizer": OPTIMIZER, "trainer": trainer}, strict=True)


class Module(SolverMixin, LightningModule):
    def __init__(self, spec=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        self.solver = spec

    def training_step(self, batch, _):
        return 10 * self.net(batch).square().mean()


class Plain(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Module().net

    training_step = Module.training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(kind, *args, **trainer):
    module = kind(*args)
    data = DataLoader(torch.randn(24, 4, generator=torch.Generator().manual_seed(1)), batch_size=2)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(max_epochs=2, accelerator="cpu", **quiet, **trainer).fit(module, data)
    return [parameter.detach() for parameter in module.parameters()]


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("keys", [{}, {"gradient_clip_algorithm": "norm"}, {"gradient_clip_algorithm": "value"}])
def test_the_trainer_s_own_keys_give_the_same_weights(keys):
    keys = {"gradient_clip_val": 0.05, "accumulate_grad_batches": 4, **keys}
    imported = of_cli(**keys)
    assert any(note.startswith("trainer.gradient_clip_val: the specification does it") for note in imported.notes)
    ours, theirs = trained(Module, imported.spec), trained(Plain, **keys)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    free = trained(Module, imported.spec.replace(clip=None))
    assert not all(torch.allclose(one, other, rtol=1e-3) for one, other in zip(free, theirs, strict=True))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, (None, None)),
        ({"gradient_clip_val": 0}, (None, None)),
        ({"gradient_clip_val": None, "accumulate_grad_batches": 1}, (None, None)),
        ({"gradient_clip_val": 2}, (GlobalNorm(2.0), None)),
        ({"accumulate_grad_batches": 3}, (None, 3)),
    ],
)
def test_the_trainer_s_own_keys(keys, expected):
    spec = of_cli(max_epochs=3, **keys).spec
    assert (spec.clip, spec.accumulate) == expected


def test_an_algorithm_without_a_value():
    notes = of_cli(gradient_clip_algorithm="value").notes
    assert "trainer.gradient_clip_algorithm: has no effect without gradient_clip_val, as in Lightning" in notes


def test_accumulated_batches_are_those_of_a_step_in_the_length_of_the_run():
    """40 batches, 4 a step: the schedule is made for all the run, and needs nothing after it."""
    config = {"schedulers": ["CosineAnnealingLR(optimizer, 10)"], "trainer": {"max_epochs": 4}}
    facts = {"step_on": "step", "iters_per_epoch": 10}
    alone = from_torch(config, facts=facts).spec
    config["trainer"]["accumulate_grad_batches"] = 4
    spec = from_torch(config, facts=facts).spec
    assert spec.accumulate == 4
    told = from_torch({"schedulers": config["schedulers"]}, facts=facts | {"epochs": 4, "batches_per_step": 4}).spec
    assert spec.schedules == told.schedules != alone.schedules


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gradient_clip_algorithm": "agc"}, r"trainer\.gradient_clip_algorithm: unknown value; got 'agc'; give norm"),
        ({"gradient_clip_val": "much"}, r"trainer\.gradient_clip_val: must be a number"),
        ({"accumulate_grad_batches": 0}, r"trainer\.accumulate_grad_batches: must be at least 1"),
        ({"accumulate_grad_batches": 1.5}, r"trainer\.accumulate_grad_batches: must be a whole number"),
    ],
)
def test_mistakes_of_the_trainer(keys, message):
    with pytest.raises(SolverError, match=message):
        of_cli(**keys)
