"""What is watched of one optimiser, in a loop without a Trainer."""

from __future__ import annotations

import torch
from torch import nn

from lightning_solver.monitoring.series import Choice
from lightning_solver.monitoring.watch import Counts, Watch


def test_a_bare_loop_can_be_watched() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    counts = Counts()
    watch = Watch(optimizer, prefix="", choice=Choice(None, ("update_ratio",)), counts=counts)
    for step in range(4):
        optimizer.zero_grad()
        if step != 2:
            layer(torch.ones(3, 4)).square().mean().backward()
        measured = step == 3
        norm = torch.stack(
            [p.grad.norm() for p in layer.parameters() if p.grad is not None] or [torch.zeros(())]
        ).norm()
        weights = [parameter.detach().clone() for parameter in layer.parameters()]
        watch.before_step(measured, batches=2 * (step + 1), samples=6.0 * (step + 1))
        optimizer.step()
        watch.after_step()
    found = watch.collect()
    change = torch.cat([(now - before).flatten() for now, before in zip(layer.parameters(), weights)]).norm()
    torch.testing.assert_close(found.pop("grad_norm"), norm)
    torch.testing.assert_close(
        found.pop("update_ratio"), change.detach() / torch.cat([before.flatten() for before in weights]).norm()
    )
    assert found == {
        "lr": 0.1, "momentum": 0, "weight_decay": 0, "steps": 3, "skipped_steps": 1,
        "batches_per_step": 2, "samples_per_step": 6.0,
    }  # fmt: skip
    assert counts == Counts(begun=4, made=3)


def test_what_is_not_measured_is_not_there() -> None:
    layer = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    watch = Watch(optimizer, prefix="gen", choice=Choice(["grad_norm", "lr"]), counts=Counts())
    layer(torch.ones(3, 4)).sum().backward()
    watch.before_step(False, 1, 3.0)
    optimizer.step()
    watch.after_step()
    assert "grad_norm/gen" not in watch.collect()
    watch.before_step(True, 2, 6.0)
    assert {"grad_norm/gen", "lr/gen"} <= watch.collect().keys()


def test_groups_that_are_added_in_mid_run_get_series() -> None:
    optimizer = torch.optim.SGD(nn.Linear(4, 2).parameters(), lr=0.1)
    watch = Watch(optimizer, prefix="", choice=Choice("lr"), counts=Counts())
    watch.before_step(False, 1, 1.0)
    assert watch.options.named(watch.values) == {"lr": 0.1}
    optimizer.add_param_group({"params": [*nn.Linear(2, 2).parameters()], "lr": 0.5, "name": "new"})
    watch.before_step(False, 1, 1.0)
    assert watch.options.named(watch.values) == {"lr/0": 0.1, "lr/new": 0.5}
