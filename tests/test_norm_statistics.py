"""Statistics of norms over processes: in one process there is nothing to do; those in two are in
distributed_norm_cases.py."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_solver import SolverError
from lightning_solver.callbacks import EMA
from lightning_solver.callbacks.norm_statistics import SyncNormStatistics, average_statistics, statistics_of
from lightning_solver.callbacks.order import arrange
from small import loader, trainer


class Normed(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.register_buffer("center", torch.zeros(2))

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.net(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_running_means_and_variances_are_found_and_nothing_else():
    net = nn.ModuleDict(
        {
            "batch": nn.BatchNorm2d(3),
            "instance": nn.InstanceNorm2d(3, track_running_stats=True),
            "bare": nn.InstanceNorm2d(3),
            "plain": nn.BatchNorm2d(3, track_running_stats=False),
            "layer": nn.LayerNorm(3),
            "everywhere": nn.SyncBatchNorm(3),
            "later": nn.LazyBatchNorm1d(),
        }
    )
    net.register_buffer("center", torch.zeros(3))
    expected = ["batch.running_mean", "batch.running_var", "instance.running_mean", "instance.running_var"]
    assert sorted(statistics_of(net)) == expected


def test_further_buffers_are_named_by_globs():
    net = Normed()
    assert sorted(statistics_of(net, ["cent*"])) == ["center", "net.1.running_mean", "net.1.running_var"]
    assert statistics_of(net, ["*"]).keys() == statistics_of(net, ["center"]).keys()


def test_names_are_those_of_the_users_own_module():
    compiled = torch.compile(Normed(), backend="eager")
    assert sorted(statistics_of(compiled)) == ["net.1.running_mean", "net.1.running_var"]


@pytest.mark.parametrize("also", ["centre", "*num_batches_tracked"])
def test_a_glob_that_matches_no_floating_point_buffer_is_an_error_in_one_process_too(also):
    fit = trainer(callbacks=[SyncNormStatistics(also=also)], max_epochs=1, limit_val_batches=0)
    with pytest.raises(SolverError, match=r"SyncNormStatistics.also: matches no floating-point buffer") as caught:
        fit.fit(Normed(), loader(8))
    if also == "centre":
        assert "did you mean center?" in str(caught.value)


def test_in_one_process_nothing_changes():
    nets = []
    for callbacks in ([], [SyncNormStatistics(), EMA(decay=0.5)]):
        net = Normed()
        trainer(callbacks=callbacks, max_epochs=2).fit(net, loader(12), loader(4))
        nets.append(net)
    callbacks[1].release()
    assert average_statistics(nets[0]) == 0
    with pytest.raises(AssertionError):  # the average is in the module, which shows that the two are compared
        torch.testing.assert_close(nets[0].net[1].running_mean, nets[1].net[1].running_mean)
    bare = Normed()
    trainer(callbacks=[SyncNormStatistics()], max_epochs=2).fit(bare, loader(12), loader(4))
    for name, buffer in bare.named_buffers():
        assert torch.equal(buffer, dict(nets[0].named_buffers())[name])


def test_statistics_are_the_same_before_averages_are_evaluated():
    sync, ema = SyncNormStatistics(), EMA(decay=0.5)
    assert arrange([ema, sync]) == [sync, ema]
