import re

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lightning_solver import SolverError
from lightning_solver.rules.inventory import flat_parameters, is_flattened, take_inventory


def compiled(module):
    """Nothing is compiled until it is called."""
    return torch.compile(module, backend="eager")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(3))
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2)


class HasModule(nn.Module):
    """A user's own module that calls one of its parts ``module``."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(3, 2)


NAMES = [
    "token",
    "backbone.0.weight",
    "backbone.0.bias",
    "backbone.1.weight",
    "backbone.1.bias",
    "head.weight",
    "head.bias",
]


def names(module):
    return [parameter.name for parameter in take_inventory(module)]


def every_name(module):
    return [[place.name for place in parameter.places] for parameter in take_inventory(module)]


def test_names_and_order_are_those_of_named_parameters():
    net = Net()
    assert names(net) == NAMES == [name for name, _ in net.named_parameters()]
    assert all(
        parameter.tensor is tensor for parameter, tensor in zip(take_inventory(net), net.parameters(), strict=True)
    )


def test_a_place_knows_its_owner():
    (weight, _) = take_inventory(nn.Sequential(nn.Linear(3, 2)))
    (place,) = weight.places
    assert isinstance(place.owner, nn.Linear)
    assert (place.name, place.leaf) == ("0.weight", "weight")


def wrap_parts(net):
    net.backbone[0] = checkpoint_wrapper(net.backbone[0])
    net.head = compiled(net.head)
    return net


@pytest.mark.parametrize(
    "wrap",
    [
        compiled,
        nn.DataParallel,
        checkpoint_wrapper,
        wrap_parts,
        lambda net: nn.DataParallel(compiled(net)),
        lambda net: compiled(nn.DataParallel(net)),
        lambda net: compiled(wrap_parts(net)),
        lambda net: checkpoint_wrapper(checkpoint_wrapper(net)),
    ],
    ids=[
        "compile",
        "data parallel",
        "checkpoint",
        "inside",
        "both",
        "both the other way",
        "outside and inside",
        "twice",
    ],
)
def test_what_wrappers_put_in_between_is_taken_out(wrap):
    wrapped = wrap(Net())
    assert names(wrapped) == NAMES
    assert [p.tensor is t for p, t in zip(take_inventory(wrapped), wrapped.parameters(), strict=True)] == [True] * 7


def test_a_user_s_own_module_called_module_stays():
    assert names(HasModule()) == ["module.weight", "module.bias"]
    assert names(nn.Sequential(HasModule())) == ["0.module.weight", "0.module.bias"]
    assert names(nn.DataParallel(HasModule())) == ["module.weight", "module.bias"]
    assert names(compiled(HasModule())) == ["module.weight", "module.bias"]


def test_a_wrapped_part_of_a_user_s_module():
    net = nn.Sequential(nn.DataParallel(HasModule()))
    assert names(net) == ["0.module.weight", "0.module.bias"]


def test_a_bare_parameter_of_the_root():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

    assert names(Bare()) == ["scale"]
    assert names(compiled(Bare())) == ["scale"]


def test_a_module_without_parameters():
    assert take_inventory(nn.ReLU()) == []


def test_buffers_and_missing_parameters_are_not_listed():
    assert names(nn.BatchNorm1d(3, affine=False)) == []
    assert names(nn.Linear(3, 2, bias=False)) == ["weight"]


def test_tied_parameters_are_listed_once_with_all_their_names():
    embed, head = nn.Embedding(5, 3), nn.Linear(3, 5)
    head.weight = embed.weight
    net = nn.ModuleDict({"embed": embed, "head": head})
    assert every_name(net) == [["embed.weight", "head.weight"], ["head.bias"]]


def test_a_shared_module_is_listed_once_with_all_its_names():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, nn.ReLU(), layer, compiled(layer))
    assert every_name(net) == [["0.weight", "2.weight", "3.weight"], ["0.bias", "2.bias", "3.bias"]]
    assert names(net) == [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize("lazy", [nn.LazyLinear(3), nn.Sequential(nn.ReLU(), nn.LazyConv2d(3, 1))], ids=["root", "in"])
def test_a_parameter_that_is_not_initialised(lazy):
    prefix = "" if isinstance(lazy, nn.LazyLinear) else "1."
    message = f"{prefix}weight: the parameter is not initialised yet; got Lazy"
    with pytest.raises(SolverError, match=re.escape(message)) as caught:
        take_inventory(lazy)
    assert "run a batch through the model before training starts" in str(caught.value)


def test_a_lazy_module_that_has_seen_a_batch():
    lazy = nn.LazyLinear(3)
    lazy(torch.ones(1, 2))
    assert names(lazy) == ["weight", "bias"]


def test_class_names_are_short_dotted_and_those_of_bases():
    class Mine(nn.Linear):
        pass

    (weight, _) = take_inventory(Mine(2, 2))
    expected = {"Mine", "Linear", "Module", "nn.Linear", "torch.nn.Linear", "torch.nn.modules.linear.Linear"}
    assert expected <= weight.places[0].holder.classes
    assert not {"Conv2d", "nn.Mine"} & weight.places[0].holder.classes


def test_parameters_that_fsdp_1_has_flattened():
    class FullyShardedDataParallel(nn.Module):  # stands for torch's, which needs processes
        def __init__(self):
            super().__init__()
            self._fsdp_wrapped_module = nn.Linear(3, 2)
            self._flat_param = nn.Parameter(torch.ones(8))

    net = nn.Sequential(FullyShardedDataParallel())
    assert is_flattened(net)
    assert not is_flattened(Net())
    assert names(net) == ["0._flat_param", "0.weight", "0.bias"]
    assert flat_parameters(take_inventory(net)) == ["0._flat_param"]
    assert flat_parameters(take_inventory(Net())) == []
