import copy
import inspect
import random
import time

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from lightning_solver import OptimizerSpec
from lightning_solver.optimizers import implementation
from lightning_solver.optimizers.decoupled import SGDW
from lightning_solver.optimizers.implementation import choose, keep_layout, sparse_parameters, unscale_before
from lightning_solver.optimizers.recipe import resolve_optimizer

TORCH = [
    cls
    for cls in vars(torch.optim).values()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
]
OFFERING = [cls for cls in [*TORCH, SGDW] if {"foreach", "fused"} & set(inspect.signature(cls.__init__).parameters)]
SHAPES = [(3, 4), (5,), (), (2, 3, 1, 2), (0, 3), (1,)]


class OnlyAny(torch.optim.SGD):
    def __init__(self, params, **kwargs):
        super().__init__(params, **kwargs)


class Lies(torch.optim.SGD):
    """Its fused implementation goes further."""

    def __init__(self, params, lr: float = 0.1, foreach: bool | None = None, fused: bool | None = None):
        super().__init__(params, lr=lr * (2 if fused else 1), foreach=foreach)


class Draws(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1, foreach: bool | None = None):
        super().__init__(params, lr=lr, foreach=foreach)

    @torch.no_grad()
    def step(self, closure=None):
        torch.rand(3)
        for group in self.param_groups:
            for tensor in group["params"]:
                tensor.sub_(tensor.grad)


class Breaks(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1, foreach: bool | None = None):
        super().__init__(params, lr=lr, foreach=foreach)

    def step(self, closure=None):
        raise KeyError


class Foreign(torch.Tensor):
    pass


def recipe_of(name, **args):
    return resolve_optimizer(OptimizerSpec(name, args))


def param(*shape, **kwargs):
    return nn.Parameter(torch.zeros(*shape, **kwargs))


def chosen(name, tensors=None, args=None, options=(), **more):
    return choose(recipe_of(name, **(args or {})), [param(3, 4)] if tensors is None else tensors, options, **more)


def trained(cls, args, tensors, steps=4):
    params = [nn.Parameter(tensor.clone()) for tensor in tensors]
    optimizer = cls(params, **args)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for one in params:
            numbers = torch.randn(one.shape, generator=generator, dtype=torch.float64)
            one.grad = torch.empty_like(one).copy_(numbers)
        optimizer.step()
    return [one.detach() for one in params]


def mixed(dtypes=(torch.float32, torch.float64)):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(d) for shape in SHAPES for d in dtypes]
    made.append(torch.randn(2, 3, 4, 5, generator=generator).to(dtypes[0]).to(memory_format=torch.channels_last))
    made.append(torch.randn(4, 3, generator=generator).to(dtypes[0]).t())
    return made


def features(cls):
    takes = inspect.signature(cls.__init__).parameters
    found = [{}]
    found += [{"weight_decay": 0.1}] if "weight_decay" in takes else []
    found += [{"maximize": True}] if "maximize" in takes else []
    found += [{"amsgrad": True, "maximize": True}] if "amsgrad" in takes else []
    found += [{"momentum": 0.9, "nesterov": True}] if "nesterov" in takes else []
    found += [{"momentum": 0.9, "centered": True}] if "centered" in takes else []
    return [features | {"lr": 0.01} for features in found]


CASES = [(cls, args) for cls in OFFERING for args in features(cls)]


def name_of(value):
    return value.__name__ if isinstance(value, type) else "-".join(value)


def test_there_are_classes_that_offer_a_choice():
    assert {cls.__name__ for cls in OFFERING} >= {"SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "SGDW"}


@pytest.mark.parametrize(("cls", "args"), CASES, ids=name_of)
def test_what_is_chosen_gives_the_numbers_of_the_loop(cls, args):
    tensors = [tensor for tensor in mixed() if tensor.numel() or cls is not torch.optim.Adafactor]  # which divides by 0
    recipe = recipe_of(cls.__name__, **args)
    found = choose(recipe, [nn.Parameter(tensor) for tensor in tensors])
    loop = trained(cls, {**args, "foreach": False}, tensors)
    best = "fused" if "fused" in recipe.takes else "foreach"
    if cls is torch.optim.ASGD:
        best = "loop"  # its foreach implementation rounds its coefficients to single precision
    assert found.name == best
    for got, wanted in zip(trained(cls, {**args, **found.args}, tensors), loop):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", OFFERING)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(cls, dtype):
    """Against single precision: in half, torch's own loops differ from its kernels by their roundings."""
    tensors = [tensor for tensor in mixed((dtype,)) if tensor.numel()]
    found = choose(recipe_of(cls.__name__), [nn.Parameter(tensor) for tensor in tensors])
    single = trained(cls, {"lr": 0.01, "foreach": False}, [tensor.float() for tensor in tensors])
    for got, wanted in zip(trained(cls, {"lr": 0.01, **found.args}, tensors), single):
        torch.testing.assert_close(got.float(), wanted, rtol=0.03, atol=0.03)


def test_fused_sgd_is_not_trusted_where_it_goes_wrong():
    tensors, args = [torch.zeros(64, dtype=torch.bfloat16)], {"lr": 0.1, "momentum": 0.9}
    loop = trained(torch.optim.SGD, {**args, "foreach": False}, tensors)[0]
    fused = trained(torch.optim.SGD, {**args, "fused": True}, tensors)[0]
    right = bool((loop - fused).abs().max() < 0.02)
    assert chosen("SGD", [nn.Parameter(tensors[0])], args).name == ("fused" if right else "foreach")


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad", "SGDW"])
def test_fused_comes_first(name):
    found = chosen(name)
    assert (found.name, found.args) == ("fused", {"fused": True})
    assert str(found) == "fused (tried on cpu float32)"


@pytest.mark.parametrize("name", ["RMSprop", "NAdam", "Adamax"])
def test_on_the_cpu_all_at_once_for_small_tensors_only(name):
    found = chosen(name, [param(64, 64), param(3)])
    assert (found.name, found.args) == ("foreach", {"foreach": True})
    assert found.why == f"tried on cpu float32; {name} has no fused implementation"
    found = chosen(name, [param(100, 100)])
    assert (found.name, found.args) == ("loop", {"foreach": False})
    assert "on the CPU foreach is slower for tensors of 10,000 numbers on average" in found.why


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Muon", f"{__name__}.OnlyAny"])
def test_a_class_without_a_choice(name):
    found = chosen(name, args={"lr": 0.1})
    assert (found.name, found.args) == ("own", {})
    assert found.why == f"{name.rpartition('.')[2]} has one implementation"


@pytest.mark.parametrize(
    ("args", "name", "why"),
    [
        ({"fused": True}, "fused", "optimizer.args says so"),
        ({"foreach": True}, "foreach", "optimizer.args says so"),
        ({"foreach": True, "fused": False}, "foreach", "optimizer.args says so"),
        ({"fused": False}, "loop", "optimizer.args says fused: false, which torch takes as a wish for the loop"),
        ({"foreach": False}, "loop", "optimizer.args says foreach: false, which torch takes as a wish for the loop"),
        ({"differentiable": True}, "loop", "optimizer.args sets differentiable, which only the loop supports"),
    ],
)
def test_what_the_user_says_stands(args, name, why):
    found = chosen("AdamW", args=args)
    assert (found.name, found.why, found.args) == (name, why, {})
    recipe_of("AdamW", **args).build([{"params": [param(2)]}], found.args)


def test_what_a_rule_says_stands():
    found = chosen("AdamW", options=[{"lr": 0.1}, {"foreach": True}])
    assert (found.name, found.why, found.args) == ("foreach", "a rule says so", {})


def test_nothing_said_is_nothing_given():
    assert chosen("AdamW", args={"foreach": None, "fused": None}).args == {"fused": True}


def test_the_options_of_a_rule_are_tried_too():
    found = chosen("Adam", options=[{"lr": 0.1}, {"capturable": True}])
    assert found.name == "loop"
    assert found.why.startswith("a step could not be tried: If capturable=True")


def test_options_at_their_defaults_are_no_wish():
    recipe = recipe_of("AdamW", weight_decay=0.1)
    assert choose(recipe, [param(3)], [dict(recipe.defaults)]).args == {"fused": True}


@pytest.mark.parametrize(
    ("tensors", "name", "why"),
    [
        ([param(2, dtype=torch.complex64)], "foreach", "fused refuses: "),
        ([param(2), param(2, dtype=torch.complex64)], "foreach", "tried on cpu complex64, cpu float32; fused"),
        ([nn.Parameter(torch.zeros(4, 8)[:, ::2])], "foreach", "tried on cpu float32 with gaps; fused gives other numbers"),
        ([nn.Parameter(torch.zeros(3, 1).expand(3, 4))], "foreach", "fused gives other numbers than the loop"),
        ([nn.Parameter(torch.zeros(3).as_subclass(Foreign))], "loop", "parameters of class Foreign"),
        ([param(2), param(())], "fused", "tried on cpu float32"),
        ([param(2, dtype=torch.float64), param(2, dtype=torch.bfloat16)], "fused", "cpu bfloat16, cpu float64"),
        ([param(0)], "fused", "tried on cpu float32"),
        ([], "loop", "parameters of class "),
    ],
)  # fmt: skip
def test_what_the_tensors_allow(tensors, name, why):
    found = chosen("AdamW", tensors)
    assert found.name == name
    assert why in found.why


def test_a_kernel_that_goes_wrong_on_gaps_is_not_trusted():
    strided = [torch.randn(4, 8, generator=torch.Generator().manual_seed(0))[:, ::2]]
    holders = [nn.Parameter(strided[0])]
    assert not holders[0].is_contiguous()
    args = choose(recipe_of("AdamW", lr=0.1), holders).args
    grad, loop = torch.randn(4, 4), nn.Parameter(strided[0].clone())
    for one, given in ((holders[0], args), (loop, {"foreach": False})):
        one.grad = grad.clone()
        torch.optim.AdamW([one], lr=0.1, **given).step()
    torch.testing.assert_close(holders[0].detach(), loop.detach())


def test_an_implementation_that_gives_other_numbers_is_not_taken():
    found = chosen(f"{__name__}.Lies")
    assert (found.name, found.args) == ("foreach", {"foreach": True})
    assert "fused gives other numbers than the loop" in found.why


@pytest.mark.parametrize(("name", "taken"), [("SGD", "foreach"), ("Adagrad", "foreach"), ("SGDW", "foreach")])
def test_sparse_gradients(name, taken):
    model = nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Linear(3, 2))
    found = chosen(name, list(model.parameters()), {"lr": 0.1}, sparse=sparse_parameters(model))
    assert found.name == taken
    optimizer = recipe_of(name, lr=0.1).build([{"params": list(model.parameters())}], found.args)
    model(torch.tensor([1, 2])).sum().backward()
    assert model[0].weight.grad.is_sparse
    optimizer.step()


def test_the_parameters_with_sparse_gradients():
    model = nn.ModuleList([nn.Embedding(7, 3, sparse=True), nn.Embedding(7, 3), nn.EmbeddingBag(5, 2, sparse=True)])
    assert [id(one) for one in sparse_parameters(model)] == [id(model[0].weight), id(model[2].weight)]


def test_on_the_meta_device_it_is_decided_when_built():
    found = chosen("AdamW", [param(3, device="meta")])
    assert (found.name, found.args) == ("fused", {})
    assert found.why == (
        "decided when built: the parameters are on the meta device; on the CPU it would be fused (tried on cpu float32)"
    )


def test_under_the_meta_device_real_parameters_are_tried_for_real():
    tensors = [param(3)]
    with torch.device("meta"):
        assert chosen("AdamW", tensors).args == {"fused": True}


def test_under_no_grad_and_in_inference_mode():
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert chosen("AdamW", [param(3)]).name == "fused"


def test_a_learning_rate_in_a_tensor():
    options = [{"lr": torch.tensor(0.25)}]
    assert chosen("AdamW", options=options).name == "fused"
    assert options[0]["lr"].item() == 0.25


def test_a_trial_leaves_no_trace():
    seen = []
    handle = register_optimizer_step_post_hook(lambda *_: seen.append("hook"))
    torch.manual_seed(3)
    random.seed(3)
    before, tensors = torch.get_rng_state(), [param(3)]
    try:
        assert chosen(f"{__name__}.Draws", tensors).name == "foreach"
    finally:
        handle.remove()
    assert seen == []
    assert torch.equal(torch.get_rng_state(), before)
    assert tensors[0].grad is None
    assert tensors[0].tolist() == [0.0, 0.0, 0.0]


def test_a_class_whose_step_fails_is_built_all_the_same():
    found = chosen(f"{__name__}.Breaks")
    assert (found.name, found.args, found.why) == ("loop", {"foreach": False}, "a step could not be tried: KeyError")


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="older versions of torch have one dtype for both")
def test_gradients_of_another_dtype_are_tried_as_such():
    weight = param(3)
    weight.grad_dtype = torch.float64
    found = chosen("AdamW", [weight])
    assert found.name == "loop"
    assert found.why.startswith("a step could not be tried: ")


def test_many_tensors_take_one_pass():
    recipe, tensors = recipe_of("AdamW"), [param(1)] * 100_000
    start = time.perf_counter()
    assert choose(recipe, tensors).name == "fused"
    assert time.perf_counter() - start < 1.0


def test_many_groups_are_tried_as_few(monkeypatch):
    tried = []
    real = implementation.take_steps
    monkeypatch.setattr(implementation, "take_steps", lambda *args: tried.append(len(args[2])) or real(*args))
    chosen("AdamW", options=[{"lr": 0.1 * i, "weight_decay": float(i % 2)} for i in range(1, 50)])
    assert tried == [2, 2]


def test_extra_arguments_win_when_an_optimiser_is_built():
    recipe = recipe_of("AdamW", fused=None, lr=0.5)
    optimizer = recipe.build([{"params": [param(2)]}], {"fused": True})
    assert (optimizer.param_groups[0]["fused"], optimizer.param_groups[0]["lr"]) == (True, 0.5)
    assert recipe.args["fused"] is None


# ------------------------------------------------------------------ the loss scaler


def scaled_run(implementation_args, clip, before, steps=5):
    """Steps under a loss scaler, the third of which is not finite; clipping in between."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, generator=generator))
    optimizer = torch.optim.AdamW([weight], lr=0.1, **implementation_args)
    if before:
        unscale_before(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    norms = []
    for step in range(steps):
        optimizer.zero_grad()
        data = torch.randn(5, 4, generator=generator)
        loss = (data @ weight).square().mean() * (float("inf") if step == 2 else 1.0)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            norms.append(float(nn.utils.clip_grad_norm_([weight], clip)))
        scaler.step(optimizer)
        scaler.update()
    return weight.detach(), norms, scaler.get_scale(), int(optimizer.state[weight]["step"])


@pytest.mark.parametrize("clip", [None, 0.01])
def test_a_fused_step_under_a_loss_scaler_is_that_of_the_loop(clip):
    loop, loop_norms, loop_scale, loop_steps = scaled_run({"foreach": False}, clip, before=False)
    fused, norms, scale, steps = scaled_run({"fused": True}, clip, before=True)
    torch.testing.assert_close(fused, loop)
    assert norms == pytest.approx(loop_norms, nan_ok=True)
    assert scale == loop_scale == 2.0**9
    assert steps == loop_steps == 4  # the one that was not finite is skipped


def test_the_scaler_unscales_before_a_step_that_would_do_it_itself():
    weight, seen = param(2), []
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.register_step_pre_hook(lambda *_: seen.append(weight.grad.tolist()))
    for _ in range(2):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        unscale_before(optimizer)
    assert seen == [[8.0, 8.0], [1.0, 1.0]]


def test_an_optimiser_that_never_unscales_is_left_as_it_is():
    optimizer = torch.optim.RMSprop([param(2)])
    unscale_before(optimizer)
    assert "_step_supports_amp_scaling" not in vars(optimizer)


def test_lightning_clips_then():
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    weight = param(2)
    weight.grad = torch.full((2,), 3.0)
    optimizer = torch.optim.AdamW([weight], fused=True)
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        plugin.clip_gradients(optimizer, 1.0)
    unscale_before(optimizer)
    plugin.clip_gradients(optimizer, 1.0)
    assert float(weight.grad.norm()) == pytest.approx(1.0)


# ------------------------------------------------------------------ state of another layout


def resumed(memory_format, fused, kept):
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3)
    before = torch.optim.Adam(first.parameters(), lr=0.1)
    x = torch.randn(1, 3, 5, 5)
    first(x).square().sum().backward()
    before.step()
    model = copy.deepcopy(first).to(memory_format=memory_format)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    if kept:
        keep_layout(optimizer)
    saved = before.state_dict()
    saved["param_groups"][0]["fused"] = fused
    optimizer.load_state_dict(saved)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return model.weight.detach()


def test_moments_of_another_layout_are_laid_out_anew():
    loop = resumed(torch.channels_last, False, kept=False)
    torch.testing.assert_close(resumed(torch.channels_last, True, kept=True), loop)
    torch.testing.assert_close(resumed(torch.contiguous_format, True, kept=True), loop)


def test_laying_out_touches_nothing_else():
    weight = nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    keep_layout(optimizer)
    state = {"kept": torch.ones(2, 3), "other": torch.ones(3, 2).t()[:1], "number": 3, "none": None}
    saved = optimizer.state_dict()
    saved["state"] = {0: state, "extra": "text"}
    optimizer.load_state_dict(saved)
    assert optimizer.state[weight]["other"].shape == (1, 3)
    assert optimizer.state[weight]["number"] == 3
    assert optimizer.state["extra"] == "text"
