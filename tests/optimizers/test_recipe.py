import re
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from lightning_solver import OptimizerSpec, SolverError
from lightning_solver.optimizers.recipe import resolve_optimizer

TORCH = [
    cls
    for cls in vars(torch.optim).values()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
]


class Mine(torch.optim.Optimizer):
    def __init__(self, params, lr, *, rho=0.5, flavour: str = "plain"):
        super().__init__(params, {"lr": lr, "rho": rho, "flavour": flavour, "schedule": [1, 2]})


class TakesAny(torch.optim.SGD):
    def __init__(self, params, **kwargs):
        super().__init__(params, **kwargs)


class Unresolved(torch.optim.SGD):
    def __init__(self, params: "ParamsThatNobodyHasDefined", lr: float = 0.1):  # noqa: F821
        super().__init__(params, lr=lr)


class NoLearningRate(torch.optim.Optimizer):
    def __init__(self, params, weight: float = 1.0):
        super().__init__(params, {"weight": weight})


class Breaks(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 0.1):
        raise KeyError("no such thing")


def not_a_class():
    pass


def resolve(name, lr=None, **args):
    return resolve_optimizer(OptimizerSpec(name, args), lr)


def parameters():
    return [{"params": [nn.Parameter(torch.zeros(2, 2))]}]


def test_there_are_optimisers_to_test():
    assert {cls.__name__ for cls in TORCH} >= {"SGD", "Adam", "AdamW", "RMSprop", "LBFGS", "Adagrad"}


@pytest.mark.parametrize("cls", TORCH, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("dotted", [False, True])
def test_every_optimiser_of_torch(cls, dotted):
    recipe = resolve(f"torch.optim.{cls.__name__}" if dotted else cls.__name__)
    optimizer = recipe.build(parameters())
    assert recipe.cls is type(optimizer) is cls
    assert recipe.args == {}
    assert recipe.defaults == {name: value for name, value in optimizer.defaults.items() if name != "params"}


@pytest.mark.parametrize("cls", TORCH, ids=lambda cls: cls.__name__)
def test_arguments_reach_every_optimiser_of_torch(cls):
    recipe = resolve(cls.__name__, lr=0.25)
    assert recipe.args == recipe.args | {"lr": 0.25}
    assert recipe.defaults["lr"] == 0.25
    assert recipe.build(parameters()).param_groups[0]["lr"] == 0.25


def test_arguments_are_converted_and_frozen():
    recipe = resolve("AdamW", lr=1, betas=[0, 0.5], foreach=None)
    assert recipe.args == {"lr": 1.0, "betas": (0.0, 0.5), "foreach": None}
    assert type(recipe.args["lr"]) is float
    with pytest.raises(TypeError, match="frozen"):
        recipe.args["lr"] = 2.0
    with pytest.raises(FrozenInstanceError):
        recipe.cls = None


def test_the_lr_of_the_spec_goes_in_place_of_the_argument():
    assert resolve_optimizer(OptimizerSpec("SGD", {"lr": 0.1}), 0.2).args["lr"] == 0.2
    assert resolve_optimizer(OptimizerSpec("SGD", {"lr": 0.1}), 0.0).args["lr"] == 0.0


def test_a_class_of_one_s_own_by_dotted_path():
    recipe = resolve(f"{__name__}.Mine", lr=0.1, flavour="bitter")
    assert recipe.cls is Mine
    assert recipe.defaults == {"lr": 0.1, "rho": 0.5, "flavour": "bitter", "schedule": (1, 2)}
    assert isinstance(recipe.build(parameters()), Mine)


def test_a_class_that_takes_anything():
    assert resolve(f"{__name__}.TakesAny", lr=0.3, momentum=0.5).defaults["momentum"] == 0.5


def test_annotations_that_cannot_be_resolved_are_not_checked():
    assert resolve(f"{__name__}.Unresolved", lr=0.3).defaults["lr"] == 0.3
    with pytest.raises(SolverError, match=re.escape("optimizer.args.lr: must be a number; got 'fast' (str)")):
        resolve_optimizer(OptimizerSpec(f"{__name__}.Unresolved", {"lr": "fast"}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("AdamV", "optimizer.name: torch.optim has no optimiser of this name; got 'AdamV'; did you mean Adam"),
        ("adamw", "optimizer.name: torch.optim has no optimiser of this name; got 'adamw'; did you mean AdamW"),
        (
            "sgd",
            "got 'sgd'; did you mean SGD or SGDW or ASGD? (an optimiser of another package is named by its dotted path)",
        ),
        ("Zzzz", "got 'Zzzz'; known optimisers: ASGD, Adadelta, "),
        ("Optimizer", "optimizer.name: torch.optim has no optimiser of this name; got 'Optimizer'"),
        ("lr_scheduler", "optimizer.name: torch.optim has no optimiser of this name; got 'lr_scheduler'"),
        ("", "optimizer.name: torch.optim has no optimiser of this name; got ''"),
        (
            "no_such_package.Lion",
            "optimizer.name: cannot be imported; got 'no_such_package.Lion'; install it, or correct",
        ),
        (
            "torch.optim.AdamV",
            "optimizer.name: module torch.optim has no AdamV; got 'torch.optim.AdamV'; did you mean A",
        ),
        ("torch.nn.Linear", "optimizer.name: is not a torch.optim.Optimizer; got 'torch.nn.Linear'; name an optimiser"),
        (f"{__name__}.not_a_class", "optimizer.name: is not a torch.optim.Optimizer; got "),
        (".AdamW", "optimizer.name: cannot be imported; got '.AdamW'"),
    ],
)
def test_names_that_are_no_optimiser(name, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        resolve(name)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (
            "AdamW",
            {"wieght_decay": 0.1},
            "optimizer.args.wieght_decay: AdamW has no argument wieght_decay; got 'wieght_",
        ),
        ("AdamW", {"wieght_decay": 0.1}, "did you mean weight_decay"),
        ("AdamW", {"momentum": 0.9}, "optimizer.args.momentum: AdamW has no argument momentum; got 'momentum'"),
        ("AdamW", {"params": []}, "optimizer.args.params: AdamW has no argument params"),
        ("AdamW", {"self": 1}, "optimizer.args.self: AdamW has no argument self"),
        ("AdamW", {"lr": "fast"}, "optimizer.args.lr: must be a number"),
        ("AdamW", {"lr": "fast"}, "got 'fast' (str)"),
        ("AdamW", {"lr": True}, "optimizer.args.lr: must be a number"),
        ("AdamW", {"lr": None}, "optimizer.args.lr: must be a number"),
        ("AdamW", {"lr": -0.1}, "optimizer.args.lr: must not be negative; got -0.1; give a value >= 0"),
        ("AdamW", {"lr": float("nan")}, "optimizer.args.lr: must be a finite number; got nan"),
        ("AdamW", {"lr": float("inf")}, "optimizer.args.lr: must be a finite number; got inf"),
        ("AdamW", {"weight_decay": -0.1}, "optimizer.args.weight_decay: must not be negative; got -0.1"),
        ("AdamW", {"weight_decay": "0.1"}, "optimizer.args.weight_decay: must be a number; got '0.1' (str)"),
        ("AdamW", {"betas": 0.9}, "optimizer.args.betas: must be a list of 2 "),
        ("AdamW", {"betas": 0.9}, "got 0.9 (float)"),
        ("AdamW", {"betas": [0.9]}, "optimizer.args.betas: must be a list of 2 "),
        ("AdamW", {"betas": [0.9, "x"]}, "optimizer.args.betas[1]: must be a number"),
        ("AdamW", {"amsgrad": 1}, "optimizer.args.amsgrad: must be true or false; got 1 (int)"),
        ("AdamW", {"eps": float("nan")}, "optimizer.args.eps: must be a finite number; got nan"),
        ("SGD", {"nesterov": "yes"}, "optimizer.args.nesterov: must be true or false; got 'yes' (str)"),
        ("SGD", {"momentum": "0.9"}, "optimizer.args.momentum: must be a number; got '0.9' (str)"),
        (
            "AdamW",
            {"betas": [0.9, 1.5]},
            "optimizer.args: AdamW refuses them: Invalid beta parameter at index 1: 1.5; got",
        ),
        ("AdamW", {"betas": [0.9, 1.5]}, "got betas=(0.9, 1.5); correct them"),
        ("SGD", {"nesterov": True}, "optimizer.args: SGD refuses them: Nesterov momentum requires a momentum and zero"),
        (f"{__name__}.Mine", {}, "optimizer.args: Mine needs lr; got {}; add it"),
        (f"{__name__}.Mine", {"rho": 1.0}, "optimizer.args: Mine needs lr; got {'rho': 1.0}; add it"),
        (
            f"{__name__}.Mine",
            {"lr": 0.1, "roh": 1.0},
            "optimizer.args.roh: Mine has no argument roh; got 'roh'; did you",
        ),
        (f"{__name__}.Mine", {"lr": "fast"}, "optimizer.args.lr: must be a number; got 'fast' (str)"),
        (f"{__name__}.Mine", {"lr": 0.1, "flavour": 3}, "optimizer.args.flavour: must be a text; got 3 (int)"),
        (f"{__name__}.TakesAny", {"momentun": 0.5}, "optimizer.args: TakesAny refuses them: "),
        (f"{__name__}.NoLearningRate", {"lr": 0.5}, "optimizer.args.lr: NoLearningRate has no argument lr; got 'lr'"),
        (f"{__name__}.Breaks", {}, "optimizer.args: Breaks refuses them: 'no such thing'"),
    ],
)
def test_arguments_that_do_not_fit(name, args, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        resolve_optimizer(OptimizerSpec(name, args))


def test_a_wrong_lr_of_the_spec_is_named_as_such():
    with pytest.raises(SolverError, match=r"^lr: must not be negative; got -1.0"):
        resolve("AdamW", lr=-1.0)
    with pytest.raises(SolverError, match=r"^lr: NoLearningRate has no argument lr"):
        resolve(f"{__name__}.NoLearningRate", lr=1.0)


def test_check_option_is_of_the_options_of_a_group():
    recipe = resolve("AdamW")
    assert recipe.check_option("betas", [0, 0.5], "x") == (0.0, 0.5)
    assert recipe.check_option("lr", 1, "x") == 1.0
    with pytest.raises(SolverError, match=re.escape("x: AdamW has no option momentun; got 'momentun'")):
        recipe.check_option("momentun", 0.9, "x")
    with pytest.raises(SolverError, match=re.escape("x: must not be negative; got -1.0")):
        recipe.check_option("lr", -1, "x")
