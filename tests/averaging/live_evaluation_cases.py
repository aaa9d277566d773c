"""Validation on two processes; test_live_evaluation.py starts it: ``python -m torch.distributed.run ... FILE``."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback
from test_live_evaluation import Both, Plain, data, nets, suffixed
from torch import Tensor, nn

from small import trainer

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)


class Synced(Plain):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().validation_step(batch, batch_idx)
        self.log("mean_loss", loss, sync_dist=True)
        self.log("most", loss, sync_dist=True, reduce_fx="max", on_step=True)
        return loss


def validated(module: Any, *callbacks: Callback, fit: bool) -> dict[str, float]:
    torch.manual_seed(3)
    fitter = trainer(devices=2, strategy="ddp", max_epochs=1, callbacks=[*callbacks])
    if fit:  # the module is wrapped
        fitter.fit(module, data(), data(seed=1))
    else:
        fitter.validate(module, data(seed=1), verbose=False)
    return {name: value.item() for name, value in fitter.callback_metrics.items() if "noise" not in name}


class Frozen(Synced):
    """Training changes nothing."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def on_fit_start(self) -> None:
        for inner in self.modules():
            if isinstance(inner, nn.BatchNorm1d):
                inner.eval()


def check(kind: Any, *, fit: bool) -> None:
    module, other = nets(kind)
    second = copy.deepcopy(module)
    second.load_state_dict(other)
    together = validated(copy.deepcopy(module), Both(other), fit=fit)
    first, live = validated(module, fit=False), validated(second, fit=False)
    expected: dict[str, float | Tensor] = first | {suffixed(name): value for name, value in live.items()}
    assert together == expected, (together, expected)
    assert together["accuracy_live"] != together["accuracy"]


if __name__ == "__main__":
    check(Synced, fit=False)
    check(Frozen, fit=True)
    torch.distributed.destroy_process_group()
