import functools

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from lightning_solver.optimizers.unhooked import unhooked_step


class Own(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for tensor in group["params"]:
                tensor.sub_(1.0)
        return "stepped"


class NotYetMade(torch.optim.SGD):
    def step(self, closure=None):
        return "never hooked"


def test_no_hook_sees_the_step():
    weight = nn.Parameter(torch.zeros(2))
    optimizer, seen = Own([weight], lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    handle = register_optimizer_step_post_hook(lambda *_: seen.append("any"))
    try:
        assert unhooked_step(Own)(optimizer) == "stepped"
        assert seen == []
        optimizer.step()
        assert seen == ["before", "after", "any"]
    finally:
        handle.remove()
    assert weight.tolist() == [-2.0, -2.0]


def test_a_class_that_torch_has_not_wrapped_yet():
    assert unhooked_step(NotYetMade) is NotYetMade.step


def test_what_others_have_wrapped_around_the_step_stays():
    class Wrapped(torch.optim.SGD):
        def step(self, closure=None):
            return ["inner"]

    Wrapped([nn.Parameter(torch.zeros(1))], lr=0.1)
    hooked = Wrapped.step

    @functools.wraps(hooked)
    def around(self, closure=None):
        return [*hooked(self, closure), "around"]

    Wrapped.step = around
    assert around.hooked  # the mark of torch, copied
    optimizer = Wrapped([nn.Parameter(torch.zeros(1))], lr=0.1)
    assert unhooked_step(Wrapped)(optimizer) == ["inner", "around"]
