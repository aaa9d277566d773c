"""The Trainer of transformers beside Lightning with the imported spec: clipping, accumulation, tokens as weights."""

import warnings

import pytest
import torch
import torchvision_stub  # noqa: F401
import transformers
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from lightning_solver import SolverMixin
from lightning_solver.accumulation import Accumulation
from lightning_solver.interop import from_transformers

SAMPLES, LENGTH, BATCH, CLASSES = 44, 6, 4, 5
BATCHES = SAMPLES // BATCH  # 11, so that the last window of an epoch is short
ARGUMENTS = {
    **{"num_train_epochs": 3, "learning_rate": 1e-2, "weight_decay": 0.1, "optim": "adamw_torch"},
    **{"lr_scheduler_type": "constant"},
}


class Data(Dataset):
    """Sequences of classes, of which more and more are left out."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(SAMPLES, LENGTH, 3, generator=generator)
        self.labels = torch.randint(CLASSES, (SAMPLES, LENGTH), generator=generator)
        kept = torch.randint(1, LENGTH + 1, (SAMPLES, 1), generator=generator)
        self.labels[torch.arange(LENGTH) >= kept] = -100

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return {"x": self.x[index], "labels": self.labels[index]}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, CLASSES))


class ByBatch(nn.Module):
    """A model that does not know of other batches."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, labels):
        return {"loss": 5 * cross_entropy(self.net(x).flatten(0, 1), labels.flatten())}


class ByToken(ByBatch):
    """A model that divides by the tokens of the whole step."""

    def forward(self, x, labels, num_items_in_batch=None, **kwargs):
        total = cross_entropy(self.net(x).flatten(0, 1), labels.flatten(), reduction="sum")
        return {"loss": 5 * total / num_items_in_batch}


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)


class Ours(SolverMixin, LightningModule):
    def __init__(self, spec):
        super().__init__()
        self.net, self.solver = net(), spec

    def tokens(self, batch):
        return (batch["labels"] != -100).sum()

    def training_step(self, batch, _):
        return 5 * cross_entropy(self.net(batch["x"]).flatten(0, 1), batch["labels"].flatten())


def theirs(model, arguments, folder):
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}
    own = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=BATCH, **quiet, **arguments
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        InOrder(model=model, args=own, train_dataset=Data()).train()
    return model.net


def imported(arguments):
    facts = {"iters_per_epoch": BATCHES}
    return from_transformers({"TrainingArguments": arguments}, facts=facts, strict=True).spec


def trained(spec):
    module = Ours(spec)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(max_epochs=3, accelerator="cpu", **quiet).fit(module, DataLoader(Data(), batch_size=BATCH))
    return module.net


def far(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("size", [1, 4, 3])
@pytest.mark.parametrize("clip", [{}, {"max_grad_norm": 0.2}, {"max_grad_norm": 0.0}], ids=str)
def test_the_trainer_trains_to_the_same_weights(clip, size, tmp_path):
    arguments = {**ARGUMENTS, **clip, "gradient_accumulation_steps": size}
    spec, peer = imported(arguments), theirs(ByBatch(), arguments, tmp_path)
    assert far(trained(spec), peer) <= 1e-6
    if spec.clip is not None:
        assert far(trained(spec.replace(clip=None)), peer) > 1e-4
    if size > 1:
        assert far(trained(spec.replace(accumulate=size - 1)), peer) > 1e-4


def test_tokens_as_weights(tmp_path):
    """What the note says to write where a model takes ``num_items_in_batch``."""
    arguments = {**ARGUMENTS, "gradient_accumulation_steps": 4}
    spec, peer = imported(arguments), theirs(ByToken(), arguments, tmp_path)
    weighted = spec.replace(accumulate=Accumulation(4, weigh_by="tokens"))
    assert far(trained(weighted), peer) <= 1e-6
    assert far(trained(spec), peer) > 1e-4
