"""Giving memory that the allocator holds back to the device."""

import pytest
import torch

from lightning_solver import SolverError
from lightning_solver.callbacks.empty_cache import EmptyCache, empty_cache
from small import Net, loader, spec, trainer


@pytest.fixture
def calls(monkeypatch):
    """The devices that were asked; Lightning empties the cache by itself too, which is not counted."""
    found = []
    monkeypatch.setattr("lightning_solver.callbacks.empty_cache.empty_cache", lambda device: found.append(device.type))
    return found


def run(callback, **kwargs):
    fit = trainer(callbacks=[callback], max_epochs=2, num_sanity_val_steps=0, **kwargs)
    fit.fit(Net(spec()), loader(12), loader(8))
    return fit


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({}, 2 * 2),  # after the training and the validation of each epoch
        ({"before_epoch": True, "after_epoch": False}, 2 * 2),
        ({"before_epoch": True}, 2 * 4),
        ({"after_epoch": False, "after_batch": True}, 2 * (3 + 2)),
    ],
)
def test_it_acts_when_it_is_asked_to(calls, when, expected):
    run(EmptyCache(**when))
    assert calls == ["cpu"] * expected


def test_it_acts_in_tests_and_predictions_too(calls):
    net, callback = Net(spec()), EmptyCache(before_epoch=True, after_batch=True)
    net.test_step = net.validation_step
    net.predict_step = lambda batch: net.head(net.backbone(batch))
    fit = trainer(callbacks=[callback])
    fit.test(net, loader(8), verbose=False)
    assert len(calls) == 2 + 2
    fit.predict(net, loader(12), return_predictions=False)
    assert len(calls) == 4 + 2 + 3


def test_on_a_cpu_nothing_is_done(monkeypatch):
    def refuse():
        raise AssertionError("there is nothing to be emptied")

    for module in (torch.cuda, torch.mps, torch.xpu):
        monkeypatch.setattr(module, "empty_cache", refuse)
    assert not empty_cache(torch.device("cpu"))


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_each_kind_of_device_has_its_own_allocator(monkeypatch, kind):
    found = []
    for name in ("cuda", "mps", "xpu"):
        monkeypatch.setattr(getattr(torch, name), "empty_cache", lambda name=name: found.append(name))
    assert empty_cache(torch.device(kind))
    assert found == [kind]


def test_a_device_without_an_allocator_of_its_own_is_passed_over():
    assert not empty_cache(torch.device("meta"))


def test_at_no_time_is_an_error():
    with pytest.raises(SolverError, match="EmptyCache: is to act at no time; choose one, or leave the callback out"):
        EmptyCache(after_epoch=False)


def test_training_is_the_same_with_it(calls):
    nets = []
    for callbacks in ([], [EmptyCache(after_batch=True)]):
        torch.manual_seed(0)
        net = Net(spec())
        trainer(callbacks=callbacks, max_epochs=1, limit_val_batches=0).fit(net, loader(12))
        nets.append(net)
    assert calls
    for one, other in zip(nets[0].parameters(), nets[1].parameters()):
        assert torch.equal(one, other)
