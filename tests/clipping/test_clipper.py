"""A clipping at work: what it takes for its parameters, what it is for, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_solver import SolverError
from lightning_solver.clipping import AGC, AutoClip, Clip, GlobalNorm, GroupNorm, ParameterNorm, Value, ZClip
from lightning_solver.clipping.clipper import Clipper, selected

EACH: list[Clip] = [GlobalNorm(1.0), GroupNorm(1.0), ParameterNorm(1.0), Value(1.0), AGC(), AutoClip(), ZClip()]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
        self.frozen = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)
        self.frozen.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.frozen(self.backbone(inputs)))


def with_gradients(module: nn.Module, size: float = 10.0) -> nn.Module:
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, size)
    return module


def clipped(module: nn.Module, size: float = 10.0) -> list[str]:
    """The names of the parameters whose gradients are no longer what they were."""
    return [name for name, p in module.named_parameters() if p.grad is not None and not (p.grad == size).all()]


ALL = ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "head.weight", "head.bias"]


# ---------------------------------------------------------------------- what may be given


def test_a_module_its_parameters_groups_or_one_tensor_may_be_given() -> None:
    given: list[Any] = [
        lambda net: net,
        lambda net: net.parameters(),
        lambda net: [p for p in net.parameters() if p.requires_grad],
        lambda net: [net.backbone.parameters(), net.frozen.parameters(), [net.head.weight], (net.head.bias,)],
        lambda net: [[], [*net.parameters()]],
    ]
    for of in given:
        net = with_gradients(Net())
        found = GlobalNorm(1.0).apply(of(net))
        assert float(found.norm) == pytest.approx(10 * 56**0.5)  # type: ignore[arg-type]
        assert clipped(net) == ALL


def test_a_tensor_alone_is_one_parameter_not_its_rows() -> None:
    weight = nn.Parameter(torch.zeros(3, 2))
    weight.grad = torch.full((3, 2), 2.0)
    assert float(ParameterNorm(1.0).apply(weight).share) == 1.0  # type: ignore[arg-type]
    assert float(weight.grad.norm()) == pytest.approx(1.0)


@pytest.mark.parametrize("clip", EACH, ids=lambda clip: type(clip).__name__)
def test_what_is_no_parameter_is_refused(clip: Clip) -> None:
    weight = nn.Parameter(torch.zeros(3, 2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for given, kind in (
        (optimizer.param_groups, "dict"),
        ([weight, [weight]], "Parameter"),
        ([[weight], [3.0]], "list"),
        ([3.0], "float"),
        ([("weight", weight)], "tuple"),
    ):
        with pytest.raises(SolverError) as error:
            clip.over(given)  # type: ignore[arg-type]
        message = str(error.value)
        assert message.startswith(
            f"{type(clip).__name__}: takes a module, parameters, or lists of parameters; got {kind}"
        )
        assert "group['params']" in message


@pytest.mark.parametrize("clip", EACH, ids=lambda clip: type(clip).__name__)
def test_without_a_gradient_nothing_is_measured(clip: Clip) -> None:
    for given in ([], [[]], Net(), [nn.Parameter(torch.zeros(3)) for _ in range(2)]):
        clipper = clip.over(given)
        before = clipper.state_dict()
        found = clipper.apply()
        assert (found.norm, found.clipped_norm, found.share) == (None, None, None)
        assert found.limit == clip.limit
        assert [str(value) for value in clipper.state_dict().values()] == [str(value) for value in before.values()]


def test_groups_are_those_that_are_given() -> None:
    net = with_gradients(Net())
    groups = [[net.head.weight], [], [net.head.bias]]
    clipper = GroupNorm(1.0).over(groups)
    assert [len(group) for group in clipper.groups] == [1, 1]
    clipper.apply()
    for parameter in (net.head.weight, net.head.bias):
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) == pytest.approx(1.0)


def test_a_module_is_one_group() -> None:
    net = with_gradients(Net())
    GroupNorm(1.0).apply(net)
    total = sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None)
    assert total == pytest.approx(1.0)


def test_a_generator_is_read_once_and_kept() -> None:
    net = with_gradients(Net())
    clipper = GlobalNorm(1.0).over(p for p in net.parameters())
    for _ in range(2):
        with_gradients(net)
        clipper.apply()
        assert clipped(net) == ALL


# ---------------------------------------------------------------------- what it is for


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({}, ALL),
        ({"of": {"match": "head.*"}}, ALL[4:]),
        ({"of": {"match": "*"}, "unless": {"kind": "norm"}}, ALL[:2] + ALL[4:]),
        ({"unless": {"ndim": 1}}, [ALL[0], ALL[4]]),
        ({"unless": [{"kind": "head"}, {"module_class": "LayerNorm"}]}, ALL[:2]),
        ({"of": {"kind": "head"}}, ALL[4:]),
        ({"of": {"regex": "weight$"}, "unless": {"match": "head.*"}}, [ALL[0], ALL[2]]),
    ],
)
def test_selectors_choose_as_those_of_rules_do(chosen: dict[str, Any], names: list[str]) -> None:
    net = with_gradients(Net())
    found = GlobalNorm(1.0, **chosen).apply(net)
    assert clipped(net) == names
    numbers = sum(p.numel() for name, p in net.named_parameters() if name in names)
    assert float(found.norm) == pytest.approx(10 * numbers**0.5)  # type: ignore[arg-type]


def test_what_is_frozen_is_not_for_a_clipping() -> None:
    net = Net()
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    Value(1.0).apply(net)
    assert clipped(net) == ALL


def test_selectors_need_the_module() -> None:
    for chosen in ({"of": {"match": "*"}}, {"unless": {"ndim": 1}}):
        with pytest.raises(
            SolverError, match=r"^GlobalNorm: has selectors.*; pass the module in place of its parameters"
        ):
            GlobalNorm(1.0, **chosen).over(Net().parameters())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"of": {"match": "neck.*"}}, r"^clip.of"),
        ({"unless": {"match": "neck.*"}}, r"^clip.unless.match: matches no parameter; got 'neck"),
        ({"unless": [{"ndim": 1}, {"match": "neck.*"}]}, r"^clip.unless\[1\]"),
        ({"of": {"match": "frozen.*"}}, r"^clip.of"),
        (
            {"unless": {"match": "*"}},
            r"^clip: is for no parameter that is trained; got GlobalNorm .*unless match \*; corr",
        ),
        ({"of": {"kind": "embedding"}}, r"^clip: is for no parameter that is trained"),
    ],
)
def test_what_selects_nothing_is_refused(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError, match=message):
        GlobalNorm(1.0, **chosen).over(Net())


def test_the_path_of_the_clipping_is_in_the_message() -> None:
    net = Net()
    with pytest.raises(SolverError, match=r"^solver.clip\[2\].of"):
        selected(GlobalNorm(1.0, of={"match": "neck.*"}), net, [*net.parameters()], "solver.clip[2]")  # type: ignore[arg-type]


def test_a_tensor_that_two_modules_share_is_clipped_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    with_gradients(net)
    for clip in (GlobalNorm(1.0), GlobalNorm(1.0, of={"match": "1.*"})):  # type: ignore[arg-type]
        with_gradients(net)
        assert float(clip.apply(net).norm) == pytest.approx(30.0)  # type: ignore[arg-type]
        assert float(net[0].weight.grad.norm()) == pytest.approx(1.0)


# ---------------------------------------------------------------------- the last ones are spared


def test_the_last_parameters_of_the_module_are_spared() -> None:
    """As timm does, of all parameters, trained or not."""
    for spared, names in ((0, ALL), (1, ALL[:5]), (2, ALL[:4]), (4, ALL[:4]), (5, ALL[:3])):
        net = with_gradients(Net())
        AGC(spare_last=spared).apply(net)
        assert clipped(net) == names, spared


def test_the_last_parameters_of_groups_are_spared() -> None:
    net = with_gradients(Net())
    clipper = AGC(spare_last=2).over(
        [[net.backbone[0].weight], [net.backbone[0].bias, net.head.weight], [net.head.bias]]
    )
    assert [[p.shape for p in group] for group in clipper.groups] == [[(6, 4)], [(6,)]]


def test_something_has_to_be_left() -> None:
    net = Net()
    with pytest.raises(SolverError, match=r"^clip: is for no parameter that is trained; got AGC \(spare_last 8\)"):
        AGC(spare_last=8).over(net)
    with pytest.raises(SolverError, match=r"^AGC.spare_last: spares all that is given; got 2 parameters; lower it"):
        AGC(spare_last=2).over(net.head.parameters())


# ---------------------------------------------------------------------- at work


@pytest.mark.parametrize("clip", EACH, ids=lambda clip: type(clip).__name__)
def test_gradients_may_come_and_go(clip: Clip) -> None:
    """What has none in one step has one in the next: nothing of the first look is held on to."""
    net = Net()
    clipper = clip.over(net)
    for names in (ALL, ALL[:2], [], ALL[3:]):
        net.zero_grad()
        for name, parameter in net.named_parameters():
            parameter.grad = torch.full_like(parameter, 10.0) if name in names else None
        found = clipper.apply()
        if names:
            numbers = sum(p.numel() for p in net.parameters() if p.grad is not None)
            assert float(found.norm) == pytest.approx(10 * numbers**0.5)  # type: ignore[arg-type]
        else:
            assert found.norm is None
        assert [name for name, p in net.named_parameters() if p.grad is not None] == names


def test_a_limit_of_its_own_is_for_one_step() -> None:
    net = Net()
    clipper = Value(1.0).over(net)
    for limit, left in ((None, 1.0), (0.25, 0.25), (None, 1.0)):
        with_gradients(net)
        assert clipper.apply(limit=limit).limit == left
        assert net.head.bias.grad is not None
        assert net.head.bias.grad.tolist() == [left, left]


def test_several_clippings_act_one_after_another() -> None:
    net = with_gradients(Net())
    Value(1.0).apply(net)
    found = GlobalNorm(2.0).apply(net)
    assert float(found.norm) == pytest.approx(56**0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("clip", EACH, ids=lambda clip: type(clip).__name__)
def test_gradients_that_have_a_history_are_clipped_outside_of_it(clip: Clip) -> None:
    """Of a loss that is differentiated twice."""
    weight = nn.Parameter(torch.ones(3))
    (weight.grad,) = torch.autograd.grad((weight**3).sum(), weight, create_graph=True)
    assert weight.grad.requires_grad
    with torch.no_grad():
        found = Clipper(clip, [[weight]]).apply()
    assert found.norm is not None
    assert not found.norm.requires_grad
    weight.grad = None
