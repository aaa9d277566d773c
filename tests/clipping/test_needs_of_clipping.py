"""What users of Lightning and of other tools ran into with clipping, one test for each; what others do is run where it can be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import FSDPPrecision, MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException as TrainerMisconfiguration
from torch import nn

from clipping_callback_cases import (
    SGD,
    At,
    Net,
    Seen,
    Solved,
    by_hand,
    close,
    data,
    far,
    fit,
    layers,
    loss_of,
    prepared,
    scaler,
    spec,
    the_work,
    weights,
)
from lightning_solver import SolverError
from lightning_solver.callbacks import GradientClipping
from lightning_solver.clipping import AGC, AutoClip, Clip, GlobalNorm, GroupNorm, NonFinite, ParameterNorm, Value, ZClip

LIMIT = 0.05


def norm_of(module: nn.Module) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))


def global_norm(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), LIMIT)


# ------------------------------------------------------------------ who clips at all


def test_clipping_by_norm_is_not_refused_for_sharded_parameters() -> None:
    """Lightning refuses under FSDP. FSDP2 with two processes is in distributed_clipping_callback_cases.py."""
    with pytest.raises(TrainerMisconfiguration, match="not supported"):
        FSDPPrecision("32-true").clip_grad_by_norm(None, 1.0)  # type: ignore[arg-type]
    cases = __import__("test_distributed").CASES["distributed_clipping_callback_cases.py"]
    assert {"fsdp2_clipped", "fsdp2_greatest"} <= {*cases}


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("way", ["solver", "callback"])
def test_a_fused_optimiser_is_clipped(way: str, precision: str) -> None:
    """Lightning refuses, under bf16-mixed too, where there is no scaler at all."""
    args = {**SGD, "fused": True}
    plain = Net(lambda parameters: torch.optim.SGD(parameters, **args))
    how: dict[str, Any] = {"plugins": [scaler()]} if precision == "16-mixed" else {"precision": precision}
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        fit(plain, gradient_clip_val=LIMIT, **how)
    net, callbacks = prepared(way, GlobalNorm(LIMIT), args=args)
    how = {"plugins": [scaler()]} if precision == "16-mixed" else {"precision": precision}
    fit(net, callbacks, **how)
    close(net, by_hand(global_norm, precision=precision, args=args))


class ByHand(Net):
    """Clips between backward and step, as many manual loops do."""

    def __init__(self, clips: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.clips = clips
        self.norms: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss_of(self, batch, batch_idx))
        self.norms.append(norm_of(self))
        if self.clips:
            self.clip_gradients(optimizer, LIMIT, "norm")
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_clipped_is_never_scaled(fused: bool) -> None:
    """Between ``manual_backward`` and ``step`` gradients are still 1024 times as large as they are."""

    def half() -> MixedPrecision:
        return scaler(1024.0)

    def made(net: Any) -> Any:
        net.make = lambda parameters: torch.optim.SGD(parameters, **SGD, fused=fused)
        return net

    expected = by_hand(global_norm, precision="16-mixed")
    if not fused:
        theirs = made(ByHand(clips=True))
        fit(theirs, plugins=[half()])
        assert theirs.norms[0] > 500
        far(theirs, expected)
    ours = made(ByHand(clips=False))
    ran = fit(ours, [GradientClipping(GlobalNorm(LIMIT))], plugins=[half()])
    close(ours, expected, rtol=1e-3, atol=1e-4)  # rounded at another scale
    assert float(the_work(ran).clipped[0].norm) < 50  # type: ignore[arg-type]


def test_clipping_in_the_training_step_does_nothing_and_ours_does() -> None:
    """Models were published that had been trained so."""

    class InTheWrongPlace(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            nn.utils.clip_grad_norm_(self.parameters(), LIMIT)
            return loss

    theirs = InTheWrongPlace()
    fit(theirs)
    close(theirs, by_hand(lambda model: None))
    ours = InTheWrongPlace()
    fit(ours, [GradientClipping(GlobalNorm(LIMIT))])
    close(ours, by_hand(global_norm))


def test_nothing_is_clipped_twice_without_a_word() -> None:
    for callbacks, net in (([GradientClipping(GlobalNorm(1.0))], Net()), ([], Solved(spec(GlobalNorm(1.0))))):
        with pytest.raises(SolverError, match="would be clipped twice"):
            fit(net, callbacks, gradient_clip_val=1.0)


# ------------------------------------------------------------------ what is measured


class Looks(Net):
    """Logs the norm in the hook that Lightning's documentation names."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.norms.append(norm_of(self))


def test_a_norm_that_is_logged_is_said_to_be_from_before_or_after() -> None:
    """Lightning calls the hook before it clips, so that clipping seems not to work; ours has clipped by then."""
    theirs = Looks()
    fit(theirs, gradient_clip_val=LIMIT)
    assert min(theirs.norms) > 0.2
    ours, found = Looks(), []
    look = At("on_train_batch_end", lambda trainer, module: found.append(the_work(trainer).clipped[0]))
    fit(ours, [GradientClipping(GlobalNorm(LIMIT)), look])
    assert ours.norms == pytest.approx([LIMIT] * 10, rel=1e-4)
    assert [float(one.norm) for one in found] == pytest.approx(theirs.norms, rel=1e-3)
    assert [float(one.clipped_norm) for one in found] == pytest.approx(ours.norms, rel=1e-4)
    assert [float(one.share) for one in found] == [1.0] * 10


def test_one_norm_serves_clipping_measuring_and_the_look_whether_it_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_solver.clipping.norms import Gradients

    calls = []
    norm = Gradients.norm
    monkeypatch.setattr(Gradients, "norm", lambda self, *args: calls.append(1) or norm(self, *args))
    ran = fit(Solved(spec(GlobalNorm(LIMIT), "skip")))
    assert len(calls) == 10
    work = the_work(ran)
    assert work.norm is work.clipped[0].norm


# ------------------------------------------------------------------ manual optimisation


def test_manual_optimisation_is_clipped_and_accumulated() -> None:
    """Lightning refuses both."""
    with pytest.raises(
        (MisconfigurationException, TrainerMisconfiguration), match="gradient clipping is not supported"
    ):
        fit(ByHand(clips=False), gradient_clip_val=1.0)
    with pytest.raises((MisconfigurationException, TrainerMisconfiguration), match="accumulation is not supported"):
        fit(ByHand(clips=False), accumulate_grad_batches=2)

    class ByTurns(Solved):
        def __init__(self, solver: Any) -> None:
            super().__init__(solver)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            with self.solver_turn() as turn:
                turn.step(loss_of(self, batch))

    net, automatic = ByTurns(spec(GlobalNorm(LIMIT), accumulate=2)), Net()
    fit(net)
    fit(automatic, gradient_clip_val=LIMIT, accumulate_grad_batches=2)
    close(net, automatic)
    close(net, by_hand(global_norm, accumulate=2))


# ------------------------------------------------------------------ more than one norm


def test_every_kind_and_order_of_norm_is_one_line() -> None:
    kinds: list[Clip] = [
        GlobalNorm(LIMIT, norm_type=1.0), GroupNorm(LIMIT), ParameterNorm(LIMIT), Value(LIMIT), AGC(0.01),
        AutoClip(), ZClip(warmup=2, threshold=0.1),
    ]  # fmt: skip
    found = {}
    for clip in kinds:
        net = Solved(spec(clip))
        fit(net)
        found[type(clip).__name__] = weights(net)
    unclipped = weights(by_hand(lambda model: None))
    for name, vector in found.items():
        assert float((vector - unclipped).abs().max()) > 1e-4, name


def test_adaptive_clipping_spares_the_head_where_it_is_told_to() -> None:
    """The paper does; clipping it all the same was a common mistake of ports."""
    seen, raw = Seen(), []
    look = At("on_after_backward", lambda trainer, module: raw.append([p.grad.clone() for p in module.parameters()]))
    fit(Solved(spec(AGC(0.001, unless={"match": "layers.2.*"}))), [look, seen])
    for gradient, before in zip(seen.gradients, raw):
        assert gradient is not None
        assert torch.equal(gradient[-7:], torch.cat([one.flatten() for one in before[2:]]))
        assert not torch.equal(gradient[:-7], torch.cat([one.flatten() for one in before[:2]]))
    spared = Solved(spec(AGC(0.001, spare_last=2)))
    fit(spared)
    other = Solved(spec(AGC(0.001, unless={"match": "layers.2.*"})))
    fit(other)
    close(spared, other)


def test_norm_means_the_norm_of_all_and_the_norm_of_each_has_a_name_of_its_own() -> None:
    """detectron2 and Pet call "norm" what is ParameterNorm here; everyone else means GlobalNorm."""
    each = by_hand(lambda model: [nn.utils.clip_grad_norm_([p], LIMIT) for p in model.parameters()])
    net = Solved(spec(ParameterNorm(LIMIT)))
    fit(net)
    close(net, each)
    far(each, by_hand(global_norm))


def test_weights_of_zero_are_not_frozen_for_good_by_adaptive_clipping() -> None:
    """Without a least norm, as in Composer, the gradient of a unit whose weights are 0 becomes 0."""

    def run(eps: float) -> float:
        torch.manual_seed(0)
        linear = nn.Linear(3, 2, bias=False)
        nn.init.zeros_(linear.weight)
        linear.weight.grad = torch.ones_like(linear.weight)
        AGC(0.01, eps=eps).apply(linear)
        return float(linear.weight.grad.abs().max())

    assert run(0.0) == 0.0
    assert run(1e-3) > 0.0


# ------------------------------------------------------------------ gradients that are not finite


def test_a_run_that_skips_every_step_does_not_go_unnoticed() -> None:
    """One project's threshold skipped all steps, and nobody saw it."""
    net = Solved(spec(GlobalNorm(LIMIT), "skip"), wrong=range(10))
    with pytest.raises(SolverError, match="was not finite in 20 steps in a row; got nan at step 0; look at data"):
        fit(net, max_epochs=3)
    with pytest.raises(SolverError, match="was not finite in 5 steps in a row"):
        fit(Solved(spec(None, NonFinite(in_a_row=5)), wrong=range(10)))


def test_without_a_policy_an_infinite_norm_does_what_torch_does() -> None:
    """One infinite number: the others become 0, and it becomes nan."""
    ours, theirs = layers(), layers()
    for model in (ours, theirs):
        loss_of(model, next(iter(data()))).backward()
        model[0].bias.grad[0] = float("inf")
    GlobalNorm(LIMIT).apply(ours)
    nn.utils.clip_grad_norm_(theirs.parameters(), LIMIT)
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad, equal_nan=True)


def test_a_plain_module_needs_one_line() -> None:
    """No mixin, no method, no import in the module."""

    class Plain(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return loss_of(self.layers, batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), **SGD)

    net = Plain()
    fit(net, [GradientClipping(GlobalNorm(LIMIT), nonfinite="skip")])
    close(net, by_hand(global_norm))
