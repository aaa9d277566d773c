"""What once came out wrong: gradients that were lost or scaled twice, and numbers that were logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from accumulation_runs import Batches, Plain, assert_equal, loader, model, with_scaler
from lightning_solver import SolverError
from lightning_solver.callbacks import GradientAccumulation, GradientClipping, SolverMonitor
from lightning_solver.clipping import GlobalNorm, GroupNorm, ParameterNorm
from small import trainer

pytestmark = [pytest.mark.filterwarnings("ignore")]


class Save(Checkpoint):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.fit_loop.total_batch_idx + 1}.ckpt")


@pytest.mark.parametrize("policy", ["skip", "zero"])
@pytest.mark.parametrize("kind", [ParameterNorm, GroupNorm, GlobalNorm])
def test_norm_before_is_of_the_kind_of_the_norm_after(kind: Any, policy: str) -> None:
    found = {}
    for nonfinite in (None, policy):
        monitor = SolverMonitor(every=1)
        clip = GradientClipping(kind(max_norm=100.0, norm_type="inf"), nonfinite=nonfinite)
        trainer(callbacks=[clip, monitor], max_steps=2).fit(Plain(), loader(Batches([4] * 3)))
        found[nonfinite] = monitor.history("grad_norm").values
        assert found[nonfinite] == monitor.history("grad_norm_clipped").values  # the limit is never reached
    assert found[policy] == found[None]


def test_several_clippings_one_kind_of_norm() -> None:
    monitor = SolverMonitor(every=1)
    clips = [GlobalNorm(max_norm=100.0, norm_type="inf"), GlobalNorm(max_norm=1000.0, norm_type="inf")]
    trainer(callbacks=[GradientClipping(clips), monitor], max_steps=2).fit(Plain(), loader(Batches([4] * 3)))
    assert monitor.history("grad_norm").values == monitor.history("grad_norm_clipped").values


def test_a_resumed_window_counts_all_its_batches(tmp_path: Path) -> None:
    def go(ckpt: Any = None) -> SolverMonitor:
        monitor = SolverMonitor(every=1)
        callbacks = [GradientAccumulation(4, keep_gradients=True), monitor]
        callbacks += [] if ckpt else [Save(tmp_path)]
        fit = trainer(callbacks=callbacks, max_epochs=1, enable_checkpointing=not ckpt)
        fit.fit(Plain(), StatefulDataLoader(Batches([1, 2, 3, 4, 5, 6, 7, 8]), batch_size=None), ckpt_path=ckpt)
        return monitor

    straight = go()
    resumed = go(tmp_path / "6.ckpt")
    for name in ("batches_per_step", "samples_per_step"):
        assert resumed.history(name).values == straight.history(name).values, name


def test_logging_changes_no_bit_with_sparse_gradients() -> None:
    class Sparse(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(7, 5, sparse=True)
            self.head = nn.Linear(5, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.head(self.table(batch)).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.3)

    data = DataLoader(torch.randint(0, 7, (40, 33), generator=torch.Generator().manual_seed(1)), batch_size=4)

    def go(*callbacks: Callback) -> dict[str, Any]:
        net = Sparse()
        trainer(callbacks=[*callbacks], max_epochs=3).fit(net, data)
        return net.state_dict()

    assert_equal(go(), go(SolverMonitor(every=1)))


class TwoCalls(torch.optim.SGD):
    """SAM in short: asks for gradients twice a step."""

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            params = [p for g in self.param_groups for p in g["params"]]
            moved = [0.05 * p.grad for p in params]
            for p, m in zip(params, moved):
                p.add_(m)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for p, m in zip(params, moved):
                p.sub_(m)
        super().step()
        return loss


def test_an_optimiser_that_evaluates_twice() -> None:
    class Sam(Plain):
        def configure_optimizers(self) -> Any:
            return TwoCalls(self.parameters(), lr=0.1)

    with pytest.raises(SolverError, match="several times"):
        trainer(callbacks=[GradientAccumulation(2)], max_epochs=1).fit(Sam(), loader(Batches([4] * 4)))


def test_a_window_of_a_failed_start_does_not_reach_into_the_next_fit(tmp_path: Path) -> None:
    own = GradientAccumulation(4, keep_gradients=True)
    data = Batches([4] * 8)
    trainer(callbacks=[own, Save(tmp_path)], max_epochs=1, enable_checkpointing=True).fit(Plain(), loader(data))
    straight = Plain()
    torch.manual_seed(0)
    trainer(callbacks=[GradientAccumulation(4)], max_epochs=1).fit(straight, loader(data))

    class Fails(Callback):
        armed = True

        def on_fit_start(self, *args: Any) -> None:
            if self.armed:
                raise RuntimeError("no")

    fails = Fails()
    fresh = GradientAccumulation(4, keep_gradients=True)
    fit = trainer(callbacks=[fresh, fails], max_epochs=1)
    with pytest.raises(RuntimeError, match="no"):
        fit.fit(Plain(), loader(data), ckpt_path=tmp_path / "2.ckpt")
    fails.armed = False
    again = Plain()
    trainer(callbacks=[fresh], max_epochs=1).fit(again, loader(data))
    assert_equal(again.state_dict(), straight.state_dict())


def test_two_steps_in_one_batch_are_of_that_batch() -> None:
    class Critic(LightningModule):
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for _ in range(3):
                opt = self.optimizers()
                opt.zero_grad()
                self.manual_backward((self.net(batch[0]) - batch[1]).square().mean())
                opt.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor = SolverMonitor(every=1)
    trainer(callbacks=[monitor], max_epochs=1).fit(Critic(), loader(Batches([4] * 3)))
    assert [v for _, v in monitor.history("batches_per_step").values] == [1.0, 1.0, 1.0]


def test_a_step_that_fetches_its_batches_itself_is_refused() -> None:
    """Lightning's loop tells the number of the batch before: it lets go of the first gradients of an epoch."""

    class Iter(Plain):
        def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
            batch, _, _ = next(dataloader_iter)
            return super().training_step(batch, 0)

    for sizes in ({0: 1, 1: 3}, 4):
        with pytest.raises(SolverError, match="dataloader_iter"):
            trainer(callbacks=[GradientAccumulation(sizes)], max_epochs=1).fit(Iter(), loader(Batches([4] * 10)))


def test_the_loss_that_callbacks_are_given() -> None:
    class Look(Callback):
        def __init__(self) -> None:
            self.seen = []

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            raw = float(module.last)
            self.seen.append(round(raw / float(outputs["loss"]), 3))

    class Keep(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.last = loss.detach().clone()
            return loss

    look = Look()
    trainer(callbacks=[GradientAccumulation({0: 1, 1: 2}), look], max_epochs=1).fit(Keep(), loader(Batches([4] * 9)))
    assert look.seen == [1, 2, 2, 2, 2, 2, 2, 2, 2], look.seen


def test_a_module_that_logs_lr_at_the_end_of_a_batch() -> None:
    class Logs(Plain):
        def on_train_batch_end(self, *args: Any) -> None:
            self.log("lr", 0.1, on_step=True, on_epoch=True)

    trainer(callbacks=[SolverMonitor(progress_bar=True)], max_epochs=1).fit(Logs(), loader(Batches([4] * 3)))


def test_another_precision_on_resume_in_mid_window(tmp_path: Path) -> None:
    def own() -> GradientAccumulation:
        return GradientAccumulation(4, keep_gradients=True)

    def data() -> StatefulDataLoader:
        return StatefulDataLoader(Batches([4] * 8), batch_size=None)

    trainer(callbacks=[own(), Save(tmp_path)], max_epochs=1, enable_checkpointing=True, **with_scaler("16")).fit(
        Plain(), data()
    )

    class Keep(Plain):
        grads = None

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.grads = self.grads or [p.grad.clone() for p in self.parameters()]

    straight, resumed = Keep(), Keep()
    trainer(callbacks=[own()], max_epochs=1).fit(straight, data())
    trainer(callbacks=[own()], max_epochs=1).fit(resumed, data(), ckpt_path=tmp_path / "2.ckpt")
    for a, b in zip(straight.grads, resumed.grads):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.01)


def test_a_monitor_of_another_run_begins_anew_with_a_checkpoint_that_does_not_know_it(tmp_path: Path) -> None:
    def go(*callbacks: Callback, **kwargs: Any) -> None:
        writes = any(isinstance(one, Checkpoint) for one in callbacks)
        fit = trainer(callbacks=[*callbacks], max_epochs=1, enable_checkpointing=writes)
        fit.fit(Plain(), StatefulDataLoader(Batches([4] * 10), batch_size=None), **kwargs)

    go(Save(tmp_path))
    monitor = SolverMonitor(every=1)
    go(monitor)
    go(monitor, ckpt_path=tmp_path / "5.ckpt")
    assert monitor.history("lr").count == 5
    assert monitor.latest()["steps"] == 10.0


def test_a_window_that_the_next_one_takes_in_is_counted_there() -> None:
    class Skips(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 3 else super().training_step(batch, batch_idx)

    monitor = SolverMonitor(every=1)
    fit = trainer(callbacks=[GradientAccumulation(4), monitor], max_epochs=1, **with_scaler("16"))
    fit.fit(Skips(), loader(Batches([1, 2, 3, 4, 5, 6, 7, 8])))
    assert monitor.history("batches_per_step").latest == 7.0
    assert monitor.history("samples_per_step").latest == 32.0
    assert monitor.latest()["steps"] == 1.0


def test_windows_of_a_checkpoint_that_knows_nothing_of_them_end_where_they_would_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def data() -> StatefulDataLoader:
        return StatefulDataLoader(Batches([2] * 10), batch_size=None)

    with_trainers = trainer(
        callbacks=[Save(tmp_path)], max_epochs=1, enable_checkpointing=True, accumulate_grad_batches=4
    )
    with_trainers.fit(Plain(), data())
    resumed = trainer(callbacks=[GradientAccumulation(4)], max_epochs=1)
    resumed.fit(Plain(), data(), ckpt_path=tmp_path / "2.ckpt")
    assert resumed.global_step == with_trainers.global_step == 3
    assert "written in mid-window, by Lightning's own accumulation" in caplog.text
    caplog.clear()
    between = trainer(callbacks=[GradientAccumulation(4)], max_epochs=1)
    between.fit(Plain(), data(), ckpt_path=tmp_path / "4.ckpt")
    assert between.global_step == 3
    assert "mid-window" not in caplog.text
