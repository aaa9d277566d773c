"""Batches that make a step in MMCV and MMEngine configs: what is read, and a run beside what those systems do."""

import json
import math

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_solver import SolverError, SolverMixin, SolverSpec
from lightning_solver.clipping import GlobalNorm
from lightning_solver.interop import from_mmcv, from_mmengine
from small import trainer

SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
CUMULATIVE = "GradientCumulativeOptimizerHook"


def mmcv(count=None, kind=CUMULATIVE, key="cumulative_iters", **config):
    hook = {"type": kind, **config.pop("hook", {})}
    return {"optimizer": SGD, "optimizer_config": hook | ({} if count is None else {key: count}), **config}


def mmengine(count=None, **config):
    wrapper = {"type": "OptimWrapper", "optimizer": SGD, **config.pop("wrapper", {})}
    return {"optim_wrapper": wrapper | ({} if count is None else {"accumulative_counts": count}), **config}


PEERS = {"MMCV": (from_mmcv, mmcv), "MMEngine": (from_mmengine, mmengine)}
WHERE = {"MMCV": "optimizer_config.cumulative_iters", "MMEngine": "optim_wrapper.accumulative_counts"}
both = pytest.mark.parametrize("peer", PEERS)


# ------------------------------------------------------------------ what is read


@both
@pytest.mark.parametrize(("count", "expected"), [(None, None), (1, None), (2, 2), (4, 4)])
def test_the_number_of_batches(peer, count, expected):
    importer, config = PEERS[peer]
    spec = importer(config(count), facts={"iters_per_epoch": 16}, strict=True).spec
    assert spec.accumulate == expected
    assert SolverSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("GradientCumulativeOptimizerHook", "cumulative_iters"),
        ("mmcv.GradientCumulativeOptimizerHook", "cumulative_iters"),
        ("GradientCumulativeFp16OptimizerHook", "cumulative_iters"),
        ("DistOptimizerHook", "update_interval"),
        ("GradAccumFp16OptimizerHook", "update_interval"),
        ("HookOfAProject", "cumulative_iters"),
    ],
)
def test_hooks_that_accumulate(kind, key):
    read = from_mmcv(mmcv(4, kind, key, hook={"grad_clip": {"max_norm": 1.0}}))
    assert (read.spec.accumulate, read.spec.clip) == (4, GlobalNorm(1.0))
    mixed = "Fp16" in kind or kind == "HookOfAProject"
    assert read.unmapped == (("optimizer_config.type",) if mixed else ())
    assert any("makes no step with this hook" in note for note in read.notes) == (key == "update_interval")


def test_the_tutorials_are_read_as_a_human_would_write_them():
    small = 'data = dict(samples_per_gpu=64)\noptimizer_config = dict(type="GradientCumulativeOptimizerHook", cumulative_iters=4)'
    large = 'data = dict(samples_per_gpu=256)\noptimizer_config = dict(type="OptimizerHook")'
    assert [from_mmcv(text).spec.accumulate for text in (small, large)] == [4, None]
    assert from_mmcv(small).unmapped == from_mmcv(large).unmapped == ("data",)
    text = (
        "optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)\n"
        "train_dataloader = dict(batch_size={})\n"
        "optim_wrapper = dict(\n    type='OptimWrapper',\n    optimizer=optimizer,\n    accumulative_counts={})\n"
    )
    assert [from_mmengine(text.format(*each)).spec.accumulate for each in ((4, 4), (16, 1))] == [4, None]
    assert from_mmengine(text.format(4, 4)).unmapped == ("train_dataloader",)


@both
def test_the_facts_must_not_say_otherwise(peer):
    importer, config = PEERS[peer]
    assert importer(config(4), facts={"batches_per_step": 4}, strict=True).spec.accumulate == 4
    with pytest.raises(SolverError, match=r"contradicts the facts; got 4, and facts.batches_per_step 2"):
        importer(config(4), facts={"batches_per_step": 2})
    # What only the facts say is done by somebody else, such as the Trainer.
    assert importer(config(), facts={"batches_per_step": 4}, strict=True).spec.accumulate is None


def test_several_wrappers_must_accumulate_alike():
    one = {"optimizer": SGD, "accumulative_counts": 4}
    read = from_mmengine({"optim_wrapper": {"a": one, "b": one}}, facts={"iters_per_epoch": 8})
    assert (read.spec.accumulate, read.unmapped) == (4, ("optim_wrapper",))
    assert from_mmengine({"optim_wrapper": one}, strict=True).spec.accumulate == 4
    with pytest.raises(SolverError, match=r"^optim_wrapper: accumulates differently by optimiser; got \[1, 4\]"):
        from_mmengine({"optim_wrapper": {"a": one, "b": {"optimizer": SGD}}})
    with pytest.raises(SolverError, match=r"^optim_wrapper: contradicts the facts; got 4, and .* 2"):
        from_mmengine({"optim_wrapper": {"a": one, "b": one}}, facts={"batches_per_step": 2})


@both
def test_windows_that_cross_epochs_are_named(peer):
    importer, config = PEERS[peer]
    read = importer(config(4), facts={"iters_per_epoch": 10})
    note = (
        f"{WHERE[peer]}: is not mapped exactly: a window of 4 batches that an epoch does not fill goes on in the next "
        f"one in {peer}; here the last 2 of the 10 batches make a step of their own, so that an epoch has 3 steps, in "
        "each of which schedules of iterations move by 4; let 4 divide the batches of an epoch (drop_last, or another batch size) to have both alike"
    )
    assert note in read.notes
    assert read.unmapped == (WHERE[peer],)
    with pytest.raises(SolverError, match=f"^{WHERE[peer]}: is not mapped"):
        importer(config(4), facts={"iters_per_epoch": 10}, strict=True)


@both
def test_where_the_epoch_is_not_known_both_cases_are_told(peer):
    importer, config = PEERS[peer]
    read = importer(config(4), strict=True)
    (note,) = [note for note in read.notes if note.startswith(WHERE[peer])]
    assert note.endswith("here it ends with the epoch and is divided by its own length: the same where 4 divides the "
                         "batches of an epoch")  # fmt: skip
    for facts in ({"iters_per_epoch": 8}, {"iters_per_epoch": 10, "epochs": 1}):
        assert not any(note.startswith(WHERE[peer]) for note in importer(config(4), facts=facts, strict=True).notes)


def test_the_learning_rate_is_scaled_for_the_samples_of_a_step():
    scaling = {"auto_scale_lr": {"enable": True, "base_batch_size": 256}}
    for importer, config in ((from_mmcv, mmcv(4, **scaling)), (from_mmengine, mmengine(4, **scaling))):
        read = importer(config)
        assert read.spec.base_batch_size == 1024  # they count the samples of one batch
        assert any("1024 is what that comes to here" in note for note in read.notes)


@pytest.mark.parametrize(("iters", "count", "steps"), [(80, 4, 20), (81, 4, 21), (80, 1, 80)])
def test_the_length_of_a_run_in_batches_is_told_in_steps(iters, count, steps):
    notes = from_mmengine(mmengine(count, train_cfg={"by_epoch": False, "max_iters": iters})).notes
    assert f"train_cfg.max_iters: the schedules are made for a run of this length: Trainer(max_steps={steps})" in notes


def test_the_average_counts_the_same_batches():
    hooks = [{"type": "EMAHook", "momentum": 0.008, "interval": 2}]
    for importer, config in (
        (from_mmcv, mmcv(4, custom_hooks=hooks)),
        (from_mmengine, mmengine(4, custom_hooks=hooks)),
    ):
        spec = importer(config, strict=True).spec
        share = 0.008**2 if importer is from_mmcv else 0.008
        assert spec.averages["ema"].decay == pytest.approx((1 - share) ** 2, rel=1e-15)
        assert (spec.averages["ema"].every, spec.accumulate) == (1, 4)


# ------------------------------------------------------------------ a run beside theirs

BATCHES, EPOCHS = 6, 3
POLY = {"policy": "poly", "power": 0.9, "min_lr": 0.001, "by_epoch": False}
POLY_ENGINE = {"type": "PolyLR", "power": 0.9, "eta_min": 0.001, "by_epoch": False}


def data():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(4 * BATCHES, 5, generator=generator, dtype=torch.float64)
    return list(inputs.split(4))


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()


class Module(SolverMixin, LightningModule):
    """The same network for a Trainer."""

    def __init__(self, spec):
        super().__init__()
        self.net, self.solver = net(), spec

    def training_step(self, batch, _):
        return self.net(batch[0]).square().mean()


def by_theirs(count, epochs, rates, max_norm):
    """Weights after training as ``GradientCumulativeOptimizerHook`` and ``OptimWrapper`` do it."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    total = epochs * BATCHES
    whole = total // count * count
    for i in range(total):
        loss = model(data()[i % BATCHES]).square().mean()
        (loss / (count if i < whole else total - whole)).backward()
        if (i + 1) % count == 0 or i + 1 == total:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.param_groups[0]["lr"] = rates[i]  # the schedule has moved with every batch
            optimizer.step()
            optimizer.zero_grad()
    return [parameter.detach() for parameter in model.parameters()]


def by_ours(spec, epochs):
    module = Module(spec)
    loader = DataLoader(TensorDataset(torch.cat(data())), batch_size=4)
    trainer(max_epochs=epochs).fit(module, loader)
    return [parameter.detach() for parameter in module.net.parameters()]


def far(ours, theirs):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def configs(peer, count, epochs):
    clip = {"max_norm": 0.05}
    if peer == "MMCV":
        runner = {"type": "EpochBasedRunner", "max_epochs": epochs}
        return mmcv(count, hook={"grad_clip": clip}, lr_config=POLY, runner=runner)
    schedule = {"param_scheduler": POLY_ENGINE, "train_cfg": {"by_epoch": True, "max_epochs": epochs}}
    return mmengine(count, wrapper={"clip_grad": clip}, **schedule)


@both
@pytest.mark.parametrize(("count", "epochs", "crosses"), [(1, 3, False), (2, 3, False), (3, 3, False), (6, 3, False),
                                                          (4, 1, False), (7, 1, False), (4, 3, True)])  # fmt: skip
def test_a_run_is_theirs_where_no_window_crosses_an_epoch(peer, count, epochs, crosses):
    importer, _ = PEERS[peer]
    read = importer(configs(peer, count, epochs), facts={"iters_per_epoch": BATCHES}, strict=not crosses)
    one = importer(configs(peer, 1, epochs), facts={"iters_per_epoch": BATCHES}, strict=True).spec
    total = epochs * BATCHES
    rates = one.curve("lr", [0.1], total_steps=total, steps_per_epoch=BATCHES)[:, 0].tolist()
    ours = by_ours(read.spec, epochs)
    distance = far(ours, by_theirs(count, epochs, rates, 0.05))
    assert distance > 1e-4 if crosses else distance <= 1e-9
    assert math.isfinite(distance)


# ------------------------------------------------------------------ several wrappers, each imported by itself

PARTS = {
    "encoder": {"optimizer": SGD, "clip_grad": {"max_norm": 0.05}, "accumulative_counts": 2},
    "head": {"optimizer": {**SGD, "lr": 0.05}, "clip_grad": {"type": "value", "clip_value": 0.01}},
}


class Alternating(SolverMixin, LightningModule):
    """Each part takes a turn for each batch."""

    def __init__(self, specs):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(1)
        self.encoder, self.head = nn.Linear(5, 4).double(), nn.Linear(4, 1).double()
        self.solver = specs

    def loss(self, batch):
        return self.head(self.encoder(batch).tanh()).square().mean()

    def training_step(self, batch, _):
        for name in PARTS:
            with self.solver_turn(name) as turn:
                turn.step(self.loss(batch[0]))


def by_wrappers(model, epochs):
    """What ``OptimWrapper.update_params`` does, one part after another."""
    optimizers = {
        name: torch.optim.SGD(
            getattr(model, name).parameters(), **{k: v for k, v in part["optimizer"].items() if k != "type"}
        )
        for name, part in PARTS.items()
    }
    for i in range(epochs * BATCHES):
        for name, part in PARTS.items():
            count, own = part.get("accumulative_counts", 1), list(getattr(model, name).parameters())
            gradients = torch.autograd.grad(model.loss(data()[i % BATCHES]) / count, own)
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            if (i + 1) % count == 0:
                if name == "encoder":
                    torch.nn.utils.clip_grad_norm_(own, 0.05)
                else:
                    torch.nn.utils.clip_grad_value_(own, 0.01)
                optimizers[name].step()
                optimizers[name].zero_grad()


def test_parts_of_several_wrappers_are_trained_by_turns_as_theirs():
    specs = {name: from_mmengine({"optim_wrapper": part}, strict=True).spec for name, part in PARTS.items()}
    ours, theirs = Alternating(specs), Alternating(specs)
    trainer(max_epochs=2).fit(ours, DataLoader(TensorDataset(torch.cat(data())), batch_size=4))
    by_wrappers(theirs, 2)
    weights = [[parameter.detach() for parameter in model.parameters()] for model in (ours, theirs)]
    assert far(*weights) <= 1e-9
    assert far(weights[0], [p.detach() for p in Alternating(specs).parameters()]) > 1e-2
