"""A module with and without the mixin, its data, and a training loop written out by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_solver import OptimizerSpec, SolverMixin, SolverSpec
from lightning_solver.callbacks import GradientClipping
from lightning_solver.callbacks.clipping import Clipping
from lightning_solver.clipping.at_work import AtWork
from small import trainer as quiet_trainer

STEPS = 10  # of an epoch of `data()`
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}


def layers() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


def loss_of(model: Any, batch: Sequence[Tensor], batch_idx: int = -1, wrong: Sequence[int] = ()) -> Tensor:
    """The mean squared error; of the batches ``wrong`` not a number."""
    loss: Tensor = (model(batch[0]) - batch[1]).square().mean()
    return loss * float("nan") if batch_idx in wrong else loss


def data(count: int = 40, batch_size: int = 4, **kwargs: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 4, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=batch_size, **kwargs)


class Net(LightningModule):
    """Knows nothing of this package.

    Args:
        make: Makes the optimiser of parameters.
        wrong: Batches of an epoch whose loss is not a number.
    """

    def __init__(self, make: Callable[[Any], Any] | None = None, wrong: Sequence[int] = ()) -> None:
        super().__init__()
        self.layers = layers()
        self.make = make
        self.wrong = wrong

    def forward(self, inputs: Tensor) -> Any:
        return self.layers(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return loss_of(self, batch, batch_idx, self.wrong)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), **SGD) if self.make is None else self.make(self.parameters())


class Solved(SolverMixin, Net):
    """With the mixin."""

    def __init__(self, solver: Any, wrong: Sequence[int] = ()) -> None:
        super().__init__(wrong=wrong)
        self.solver = solver


def spec(clip: Any = None, nonfinite: Any = None, *, args: dict[str, Any] = SGD, **changes: Any) -> SolverSpec:
    return SolverSpec(optimizer=OptimizerSpec("SGD", args), clip=clip, nonfinite=nonfinite, **changes)


WAYS = ("solver", "callback")
"""How clipping is asked for."""


def prepared(
    way: str, clip: Any = None, nonfinite: Any = None, *, wrong: Sequence[int] = (), args: dict[str, Any] = SGD
) -> tuple[Any, list[Callback]]:
    """A module that is clipped by its solver or by a callback, and the callbacks for it."""
    if way == "solver":
        return Solved(spec(clip, nonfinite, args=args), wrong), []
    net = Net(lambda parameters: torch.optim.SGD(parameters, **args), wrong)
    return net, [GradientClipping(clip, nonfinite=nonfinite)]


def fit(net: Any, callbacks: Sequence[Callback] = (), loader: Any = None, ckpt: Any = None, **kwargs: Any) -> Trainer:
    made = quiet_trainer(**{"max_epochs": 1, **kwargs}, callbacks=[*callbacks])
    made.fit(net, data() if loader is None else loader, ckpt_path=ckpt, weights_only=True)
    return made


def at_work(trainer: Any) -> dict[str, AtWork]:
    """What the clipping of a Trainer knows, by the name of the optimiser."""
    (found,) = [one.at_work for one in trainer.callbacks if isinstance(one, Clipping) and one.at_work]
    return dict(found)


def the_work(trainer: Any) -> AtWork:
    (found,) = at_work(trainer).values()
    return found


def scaler(scale: float = 8.0, **kwargs: Any) -> MixedPrecision:
    """Half precision on the CPU, with a loss scaler."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, **kwargs))


class Seen(Callback):
    """The gradients with which each step is made, of all optimisers one after another.

    Attributes:
        gradients: By step, as one vector; ``None`` where there were none.
    """

    def __init__(self) -> None:
        self.gradients: list[Tensor | None] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._look)

    def _look(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        found = [p.grad.detach().flatten() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.gradients.append(torch.cat(found) if found else None)

    @property
    def norms(self) -> list[float]:
        return [float("nan") if one is None else float(one.norm()) for one in self.gradients]


def by_hand(
    change: Callable[[nn.Module], Any],
    *,
    precision: str = "32-true",
    accumulate: int = 1,
    args: dict[str, Any] = SGD,
    wrong: Sequence[int] = (),
    make: Callable[[Any], Any] | None = None,
    loader: Any = None,
) -> nn.Module:
    """An epoch of backward, unscale, ``change`` of gradients and step."""
    model = layers()
    optimizer = torch.optim.SGD(model.parameters(), **args) if make is None else make(model.parameters())
    scale = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=precision == "16-mixed")
    halves = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    batches = [*(data() if loader is None else loader)]
    for index, batch in enumerate(batches):
        context: Any = contextlib.nullcontext()
        if precision in halves:
            context = torch.autocast("cpu", halves[precision])
        with context:
            loss = loss_of(model, batch, index, wrong) / accumulate
        scale.scale(loss).backward()
        if (index + 1) % accumulate == 0 or index + 1 == len(batches):
            scale.unscale_(optimizer)
            change(model)
            scale.step(optimizer)
            scale.update()
            optimizer.zero_grad()
    return model


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


def close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    a, b = (one if isinstance(one, Tensor) else weights(one) for one in (a, b))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def far(a: Any, b: Any) -> None:
    a, b = (one if isinstance(one, Tensor) else weights(one) for one in (a, b))
    assert float((a - b).abs().max()) > 1e-3


class At(Callback):
    """Calls a function in a hook, every time."""

    def __init__(self, hook: str, action: Callable[[Any, Any], Any]) -> None:
        setattr(self, hook, lambda trainer, module, *args, **kwargs: action(trainer, module))
