"""A small network, its data and its training by Lightning, for runs beside a peer's own loop."""

import warnings

import torch
import torchvision_stub  # noqa: F401
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_solver import SolverMixin

BATCH, BATCHES, EPOCHS = 4, 10, 5
STEPS = BATCHES * EPOCHS


def parts():
    """The parts of the network by name; equal ones at every call."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 1, bias=False),
    )
    backbone[0].bias.requires_grad_(False)
    head = nn.Sequential(nn.Flatten(), nn.LayerNorm(8 * 16), nn.Linear(8 * 16, 5))
    return {"backbone": backbone, "head": head}


def loss_of(model, images, targets):
    """The loss of a model that has the parts."""
    return nn.functional.cross_entropy(model.head(model.backbone(images)), targets)


def loader():
    """The same batches in the same order at every call."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH * BATCHES, 3, 8, 8, generator=generator)
    targets = torch.randint(5, (BATCH * BATCHES,), generator=generator)
    return DataLoader(TensorDataset(images, targets), batch_size=BATCH)


class Module(SolverMixin, LightningModule):
    """The parts as a LightningModule."""

    def __init__(self, spec):
        super().__init__()
        for name, part in parts().items():
            setattr(self, name, part)
        self.solver = spec

    def training_step(self, batch, _):
        return loss_of(self, *batch)


def trained(spec, *, module=Module, **trainer):
    """The weights after training by Lightning, by name."""
    module = module(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **trainer,
        ).fit(module, loader())
    return {name: tensor.detach() for name, tensor in module.named_parameters()}


class Bare(nn.Module):
    """The parts as a plain module."""

    def __init__(self):
        super().__init__()
        for name, part in parts().items():
            setattr(self, name, part)


def far(ours, theirs):
    """The greatest difference of any weight, as a share of the largest weight of its tensor."""
    assert ours.keys() == theirs.keys()
    start = dict(Bare().named_parameters())
    moved = [name for name in ours if not torch.equal(ours[name], start[name])]
    assert len(moved) == len(ours) - 1  # all but the one that is frozen
    return max(((ours[n] - theirs[n]).abs().max() / theirs[n].abs().max()).item() for n in ours)
