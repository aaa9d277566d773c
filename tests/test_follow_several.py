"""Plateaus of several optimisers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from lightning_solver.schedules import Plateau
from small import loader, trainer
from test_manual import Gan, made, one, two


class Validated(Gan):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", 1.0)


def test_the_plateau_of_one_optimiser_drops_and_the_other_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    falls = {"lr": Plateau("val_loss", factor=0.1, patience=0)}
    net = made(Validated, two(generator=one(schedules=falls), discriminator=one(0.02, schedules={})))
    torch.manual_seed(0)
    fit = trainer(max_epochs=3)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit.fit(net, loader(), loader(8))
    assert [rates[0] for rates in net.used["generator"]] == pytest.approx([0.01] * 20 + [0.001] * 10)
    assert [rates[0] for rates in net.used["discriminator"]] == [0.02] * 30
    assert "generator: val_loss: no improvement at step 20, so schedules.lr drops" in caplog.text
