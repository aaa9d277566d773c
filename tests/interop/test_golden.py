"""Configs of other systems give the figures that those systems gave: tests/golden holds what the real ones did."""

import importlib
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lightning_solver import RunLength, SolverError

GOLDEN = Path(__file__).parent.parent / "golden"
IMPORTERS = {
    "mmcv1": "from_mmcv",
    "mmengine": "from_mmengine",
    "mmpretrain": "from_mmengine",
    "detectron2": "from_detectron2",
    "fvcore": "from_detectron2",
    "pet": "from_pet",
    "timm": "from_timm",
    "transformers": "from_transformers",
    "composer": "from_composer",
    "torch": "from_torch",
}
OPTIONS = {"lr_curve": "lr", "momentum_curve": "momentum", "weight_decay_curve": "weight_decay"}
CASES = [case for peer in IMPORTERS for case in json.loads((GOLDEN / f"{peer}.json").read_text())]

# Cases whose config holds Python functions: they are handed over, as their text is never evaluated.
FUNCTIONS = {
    "torch/lr_curve/lambda": {
        "LambdaLR": {"lr_lambda": [lambda e: 0.95**e, lambda e: 1 / (1 + e), lambda e: min(1.0, (e + 1) / 20)]}
    },
    "torch/lr_curve/multiplicative-list": {
        "MultiplicativeLR": {"lr_lambda": [lambda e: 0.9, lambda e: 1.0 if e < 20 else 0.95, lambda e: 0.99]}
    },
}


def from_peer(case, **options):
    name = IMPORTERS[case["peer"]]
    module = importlib.import_module(f"lightning_solver.interop.{name.removeprefix('from_')}")
    config = case["config"]
    if case["id"] in FUNCTIONS:
        config = {"schedulers": [FUNCTIONS[case["id"]]]}
    return getattr(module, name)(config, facts=case["setting"], **options)


def groups_of(case):
    setting = case["setting"]
    count = len(setting["base_lr"])
    columns = {
        "lr": setting["base_lr"],
        "momentum": setting.get("base_momentum", [0.9] * count),
        "weight_decay": setting.get("base_weight_decay", [0.0] * count),
        "lr_scale": setting.get("lr_scale", [1.0] * count),
    }
    return [{name: values[i] for name, values in columns.items()} for i in range(count)]


def curve_of(case, spec):
    setting = case["setting"]
    batches = Fraction(setting.get("batches_per_step", 1))
    epoch = setting.get("iters_per_epoch")
    return spec.curve(
        OPTIONS[case["kind"]],
        groups_of(case),
        run=RunLength(
            total_steps=setting["total_iters"],
            steps_per_epoch=None if epoch is None else Fraction(epoch) / batches,
        ),
        metrics=setting.get("metrics"),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_peer_gave_the_same(case):
    if "raises" in case:
        with pytest.raises(SolverError):
            from_peer(case)
        return
    values = curve_of(case, from_peer(case).spec)
    if "at" in case:
        values = values[case["at"]]
    np.testing.assert_allclose(values, np.array(case["values"]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if "raises" not in case], ids=lambda case: case["id"])
def test_the_spec_is_plain_data(case):
    spec = from_peer(case).spec
    if case["id"] not in FUNCTIONS:
        assert json.loads(json.dumps(spec.to_dict())) == spec.to_dict()
        assert type(spec).from_dict(spec.to_dict()) == spec
