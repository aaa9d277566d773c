"""The same network trained by MMEngine's Runner and by a Trainer with the imported spec: the same weights."""

import copy
import logging
import uuid

import pytest
import trained as t
from mmengine.model import BaseModel
from mmengine.runner import Runner

from lightning_solver.interop.mmengine import from_mmengine

logging.disable(logging.WARNING)
PLAIN = {"foreach": False, "fused": False}
SGD = {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True, **PLAIN}
ADAMW = {"type": "AdamW", "lr": 2e-3, "betas": (0.9, 0.95), "weight_decay": 0.05, **PLAIN}
KINDS = {"norm_decay_mult": 0.0, "bias_lr_mult": 2.0, "bias_decay_mult": 0.0, "dwconv_decay_mult": 0.5}
KEYS = {"custom_keys": {"backbone": {"lr_mult": 0.1}, "head.1": {"decay_mult": 0.0}, "backbone.6": {"lr": 0.01}}}
RAMP = {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "end": 12}
COSINE = {"type": "CosineAnnealingLR", "T_max": 38, "begin": 12, "by_epoch": False, "eta_min_ratio": 0.01}
STAIRS = {"type": "MultiStepLR", "milestones": [2, 4], "gamma": 0.5}


class Theirs(BaseModel):
    """The parts as a model of MMEngine."""

    def __init__(self):
        super().__init__()
        for name, part in t.parts().items():
            setattr(self, name, part)

    def forward(self, images, targets, mode="loss"):
        return {"loss": t.loss_of(self, images, targets)}


def by_runner(config, folder):
    model = Theirs()
    off = dict.fromkeys(("checkpoint", "logger", "timer"))
    surroundings = {"work_dir": str(folder), "experiment_name": uuid.uuid4().hex, "default_hooks": off}
    Runner(model, train_dataloader=t.loader(), **surroundings, **copy.deepcopy(config)).train()
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def config_of(optimizer, paramwise, schedulers, **changes):
    return {
        "optim_wrapper": {"optimizer": optimizer, "paramwise_cfg": paramwise, **changes.pop("wrapper", {})},
        "param_scheduler": schedulers,
        "train_cfg": {"by_epoch": True, "max_epochs": t.EPOCHS},
        **changes,
    }


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda optimizer: optimizer["type"])
@pytest.mark.parametrize("paramwise", [KINDS, {**KINDS, **KEYS}], ids=["kinds", "keys"])
def test_warmup_and_cosine(optimizer, paramwise, tmp_path):
    config = config_of(optimizer, paramwise, [RAMP, COSINE])
    read = from_mmengine(config, facts={"iters_per_epoch": t.BATCHES}, strict=True)
    assert t.far(t.trained(read.spec), by_runner(config, tmp_path)) <= 1e-6


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda optimizer: optimizer["type"])
@pytest.mark.parametrize("paramwise", [None, KINDS, {**KINDS, **KEYS}], ids=["plain", "kinds", "keys"])
def test_rates_that_are_the_same_numbers_give_the_same_bits(optimizer, paramwise, tmp_path):
    config = config_of(optimizer, paramwise, [STAIRS])
    read = from_mmengine(config, facts={"iters_per_epoch": t.BATCHES}, strict=True)
    assert t.far(t.trained(read.spec), by_runner(config, tmp_path)) == 0.0


def test_it_is_the_rules_that_make_them_equal(tmp_path):
    config = config_of(ADAMW, KINDS, [STAIRS])
    spec = from_mmengine(config, facts={"iters_per_epoch": t.BATCHES}).spec
    theirs = by_runner(config, tmp_path)
    for dropped in spec.rules:
        others = tuple(rule for rule in spec.rules if rule is not dropped)
        assert t.far(t.trained(spec.replace(rules=others)), theirs) > 1e-4


def test_accumulated_batches(tmp_path):
    config = config_of(SGD, KINDS, [RAMP, COSINE], wrapper={"accumulative_counts": 2})
    read = from_mmengine(config, facts={"iters_per_epoch": t.BATCHES}, strict=True)
    assert read.spec.accumulate == 2
    assert t.far(t.trained(read.spec), by_runner(config, tmp_path)) <= 1e-6


@pytest.mark.parametrize("counts", [1, 2])
def test_learning_rates_for_another_batch_size(counts, tmp_path):
    scaled = {"enable": True, "base_batch_size": 2 * t.BATCH}
    config = config_of(SGD, KINDS, [STAIRS], auto_scale_lr=scaled, wrapper={"accumulative_counts": counts})
    read = from_mmengine(config, facts={"iters_per_epoch": t.BATCHES}, strict=True)
    theirs = by_runner(config, tmp_path)
    assert t.far(t.trained(read.spec), theirs) <= 1e-6
    unscaled = read.spec.replace(base_batch_size=None)
    assert t.far(t.trained(unscaled), theirs) > 1e-3
