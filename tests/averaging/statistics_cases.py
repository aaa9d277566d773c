"""Statistics on two processes; test_statistics.py starts it: ``python -m torch.distributed.run ... FILE``."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import torch
from test_statistics import Estimate, Net, Numbers, assert_same, loader
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from small import trainer

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)

ROWS = 24, 40
"""Of the stream of each process: 3 and 5 batches."""


class Uneven(IterableDataset[Any]):
    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return iter(rows(rank))


def rows(rank: int) -> list[tuple[Tensor, Tensor]]:
    data = Numbers(ROWS[rank])
    return [(data[i][0] * (1 + rank) + 5 * rank, data[i][1]) for i in range(len(data))]


def expected(weights: dict[str, Tensor], batches: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """The mean and the variance of all processes together, in float64."""
    linear = Net().body[0]
    linear.load_state_dict({"weight": weights["body.0.weight"], "bias": weights["body.0.bias"]})
    out = [[linear(batch).double() for batch in own] for own in batches]
    means = torch.stack([torch.stack([one.mean(0) for one in own]).mean(0) for own in out])
    inside = torch.stack([torch.stack([one.var(0) for one in own]).mean(0) for own in out])
    mean = means.mean(0)
    return mean, (inside + means.square()).mean(0) - mean.square()


def check(train: Any, batches: list[list[Tensor]], most: int | None, **settings: Any) -> None:
    torch.manual_seed(0)
    estimate = Estimate(most)
    given: dict[str, Any] = {"max_epochs": 1, "num_sanity_val_steps": 0, **settings}
    fitter = trainer(devices=2, strategy="ddp", callbacks=[estimate], **given)
    fitter.fit(Net(), train, loader(8))
    assert estimate.seen == [len(batches[0])]
    mean, variance = expected(estimate.weights[0], batches)
    found = estimate.found[0]
    assert torch.allclose(found["body.1.running_mean"].double(), mean, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found["body.1.running_var"].double(), variance, rtol=1e-4, atol=1e-5)
    alike: list[Any] = [None, None]
    torch.distributed.all_gather_object(alike, found)
    assert_same(*({name: one[name] for name in one if "running" in name} for one in alike))


if __name__ == "__main__":
    data = Numbers()
    each = [torch.stack([data[i][0] for i in range(rank, 40, 2)]) for rank in range(2)]
    sampled = loader(batch_size=4, sampler=DistributedSampler(data, 2, int(os.environ["RANK"]), shuffle=False))
    check(sampled, [list(own.split(4)) for own in each], None)
    check(sampled, [list(own.split(4))[:2] for own in each], 2)
    # Streams of different lengths; training ends before that matters.
    streams = [list(torch.stack([row for row, _ in rows(rank)]).split(8)) for rank in range(2)]
    check(DataLoader(Uneven(), batch_size=8), [own[:3] for own in streams], None, max_steps=2, val_check_interval=2)
    torch.distributed.destroy_process_group()
