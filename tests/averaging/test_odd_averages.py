"""Averages of odd tensors, of odd modules and in odd runs; what is said about them, and what their snapshots are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from averaging_cases import (
    STEPS,
    At,
    Net,
    average_of,
    close,
    ema,
    equal,
    everything,
    far,
    fit,
    live_of,
    of_state,
    straight,
    vector,
)
from lightning_solver import SolverError, averaging
from lightning_solver.averaging.averaged import Averaged
from lightning_solver.averaging.post_hoc import reconstruct
from lightning_solver.callbacks import EMA, SWA, PowerEMA
from lightning_solver.command import main

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")

DECAY = 0.8


class WithBuffer(Net):
    """Has a buffer that training leaves alone."""

    def __init__(self, buffer: Tensor) -> None:
        super().__init__()
        self.register_buffer("odd", buffer)


class Observed(Net):
    """Notes the least input so far, which is infinite at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("least", torch.tensor(float("inf")))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.least.copy_(torch.minimum(self.least, batch[0].min() - self.trainer.global_step))
        return super().training_step(batch, batch_idx)


class Inner(Net):
    """Saves a part of itself, under the names in it."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.layers.state_dict()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return self.layers.load_state_dict(state_dict, strict)


class Wrapped(Net):
    """Forgets activations of its layers, which wraps them, under names that a state_dict does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = checkpoint_wrapper(self.layers)


class Gathering(Net):
    """Keeps the outputs of an evaluation by hand, as Lightning's guide to version 2 says."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.outputs.append(self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", torch.stack(self.outputs).mean())


class Logging(Net):
    """Leaves the outputs of an evaluation to Lightning."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


def the(callback: Any) -> Averaged:
    """The one average of a callback."""
    (found,) = callback.averaged.values()
    return found  # type: ignore[no-any-return]


def said(caplog: pytest.LogCaptureFixture, *callbacks: Any, net: Net | None = None, **kwargs: Any) -> str:
    """What is said in a run."""
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net or Net(), *callbacks, **{"val": None, **kwargs})
    return caplog.text


# ---------------------------------------------------------------------- tensors in one memory


def tied(dtype: torch.dtype) -> tuple[list[Tensor], Callable[[], bool]]:
    """Two parameters in the same memory, and whether they are."""
    first = nn.Parameter(torch.ones(4, dtype=dtype))
    second = nn.Parameter(first.data)
    return [first, second], lambda: first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("swap", ["auto", "copy"])
def test_tensors_in_one_memory_change_places_together(swap: Any, dtype: torch.dtype) -> None:
    tensors, together = tied(dtype)
    averaged = averaging.EMA(decay=0.5, swap=swap).over(tensors)
    for value in (1.0, 3.0):
        with torch.no_grad():
            tensors[0].fill_(value)
        averaged.update()
    for _ in range(2):
        with averaged.swapped_in():
            assert together()
            assert [tensor.tolist() for tensor in tensors] == [[2.0] * 4] * 2
            assert [weight.tolist() for weight in averaged.weights] == [[3.0] * 4] * 2
            assert [value.tolist() for value in averaged.values] == [[2.0] * 4] * 2
        assert together()
        assert [tensor.tolist() for tensor in tensors] == [[3.0] * 4] * 2
        assert [value.tolist() for value in averaged.values] == [[2.0] * 4] * 2


def test_a_tie_by_memory_outlives_fit() -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.twin = nn.Parameter(self.layers[0].weight.data)

    net, callback = Tied(), EMA(DECAY)
    fit(net, callback)
    assert net.twin.data_ptr() == net.layers[0].weight.data_ptr()
    values = dict(zip(the(callback).names, the(callback).values))
    assert torch.equal(values["twin"], values["layers.0.weight"])
    close(vector(net), ema(net.trail, DECAY))


# ---------------------------------------------------------------------- buffers


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
@pytest.mark.parametrize(
    "buffer",
    [
        lambda: torch.eye(4).to_sparse(),
        lambda: torch.eye(4).to_sparse_csr(),
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
        lambda: torch.ones(3, dtype=torch.uint8),
    ],
    ids=["COO", "CSR", "float8", "uint8"],
)
def test_buffers_that_cannot_be_averaged_are_left_alone(buffer: Callable[[], Tensor]) -> None:
    net, callback = WithBuffer(buffer()), EMA(DECAY)
    fit(net, callback)
    assert "odd" not in the(callback).names
    close(vector(net), ema(straight(), DECAY))


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-true"}], ids=str)
def test_a_buffer_that_is_infinite_at_the_start_is_resumed_bit_by_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    whole, first = Observed(), EMA(DECAY)
    save = At("on_train_epoch_end", lambda trainer, module: trainer.save_checkpoint(tmp_path / "1.ckpt"), nth=1)
    fit(whole, first, save, **settings)
    resumed, again = Observed(), EMA(DECAY)
    fit(resumed, again, ckpt_path=tmp_path / "1.ckpt", **settings)
    assert the(again).names == the(first).names
    assert "least" not in the(first).names
    assert equal(everything(the(again)), everything(the(first)))
    assert torch.equal(resumed.state_dict()["least"], whole.state_dict()["least"])


# ---------------------------------------------------------------------- modules with a state_dict of their own


@pytest.mark.parametrize("cls", [Inner, Wrapped])
def test_a_state_dict_of_the_modules_own_does_not_cost_the_average(cls: type[Net], tmp_path: Path) -> None:
    whole, first, kept = cls(), EMA(DECAY), []
    save = At("on_train_epoch_end", lambda trainer, module: trainer.save_checkpoint(tmp_path / "1.ckpt"), nth=1)
    look = At("on_train_epoch_end", lambda trainer, module: kept.append(everything(the(first))), nth=1)
    fit(whole, first, save, look)
    resumed, again = cls(), EMA(DECAY)
    begun: list[Any] = []
    fit(
        resumed,
        again,
        At("on_train_start", lambda trainer, module: begun.append(everything(the(again)))),
        ckpt_path=tmp_path / "1.ckpt",
    )
    assert equal(begun[0], kept[0])
    assert equal(everything(the(again)), everything(the(first)))
    assert far(average_of(the(again)), live_of(the(again)))


def test_layers_that_are_wrapped_are_saved_as_the_average(tmp_path: Path) -> None:
    net, callback = Wrapped(), EMA(DECAY)
    kept: list[Tensor] = []

    def save(trainer: Any, module: Any) -> None:
        trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
        kept.append(average_of(the(callback)))

    fit(net, callback, At("on_train_epoch_end", save, nth=1))
    state = torch.load(tmp_path / "weights.ckpt", weights_only=True)["state_dict"]
    close(of_state(state), kept[0])
    close(kept[0], ema(net.trail[:STEPS], DECAY))


def test_a_lazy_layer_is_told_what_to_do_about_it() -> None:
    class Lazy(Net):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.LazyLinear(1))

    with pytest.raises(SolverError, match=r"layers\.0\.weight: is not initialised yet.*run a batch through the model"):
        fit(Lazy(), EMA(DECAY))


# ---------------------------------------------------------------------- what is said


@pytest.mark.parametrize(("cls", "times"), [(Gathering, 1), (Logging, 0)])
def test_outputs_that_are_gathered_by_hand_are_reported_once(
    cls: type[Net], times: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(cls(), EMA(DECAY, evaluate_live=True))
    assert caplog.text.count("evaluate_live: self.outputs gathers what comes of both sets of weights") == times
    assert caplog.text.count("gathers") == times


@pytest.mark.parametrize(
    ("callback", "text"),
    [
        (lambda: EMA(0.9999), "remembers some 10,000 steps: 100% of it are the weights that it began with"),
        (lambda: EMA(DECAY, start=10, until=5), "until is step 5: the trained weights are evaluated and kept"),
        (lambda: EMA(DECAY, start=1000), "begins after step 1000, but the run ends after 20"),
        (lambda: EMA(DECAY, update_bn=True), "update_bn: the module has no batch norms"),
        (lambda: SWA("75%"), "takes in the weights only once, after step 20, and is what they are then"),
    ],
)
def test_an_average_that_does_not_suit_the_run_is_reported(
    callback: Callable[[], Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert text in said(caplog, callback())


@pytest.mark.parametrize(
    "callback", [lambda: EMA(DECAY), lambda: SWA("25%"), lambda: EMA(0.9999, warmup=averaging.PowerWarmup())]
)
def test_an_average_that_suits_the_run_is_not_reported(
    callback: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert said(caplog, callback()) == ""


def test_a_run_that_is_stopped_before_an_average_begins_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def stop(trainer: Any, module: Any) -> None:
        trainer.should_stop = True

    net = Net()
    text = said(caplog, SWA("75%", 1), At("on_train_batch_end", stop, nth=STEPS - 2), net=net)
    assert "training was stopped before the average swa began, after step 15" in text
    assert torch.equal(vector(net), net.trail[-1])


def test_an_update_while_the_average_is_in_names_the_context_manager() -> None:
    averaged = averaging.EMA(decay=0.5).over([torch.ones(2)])
    averaged.update()
    with averaged.swapped_in(), pytest.raises(SolverError, match=r"leave swapped_in\(\)"):
        averaged.update()


def test_a_percentage_in_a_bare_loop_asks_for_the_length_of_the_run() -> None:
    with pytest.raises(SolverError, match="give total_steps, or durations in steps"):
        averaging.EMA(decay=0.5, start="75%").over([torch.ones(2)])


def test_a_greedy_soup_does_not_guess_which_score_is_better(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["average", "a.ckpt", "b.ckpt", "--greedy", "--score", "any_module:any_function", "-o", "soup.ckpt"]
    assert main(given) == 2
    assert "does not know whether a higher score is better" in capsys.readouterr().err


# ---------------------------------------------------------------------- snapshots


def snapshots(folder: Path, pattern: str = "*.ckpt") -> list[Path]:
    return sorted((folder / "averages").glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def test_snapshots_of_two_runs_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    for epochs in (2, 1):
        fit(Net(), PowerEMA(0.1, snapshots=4), folder=tmp_path, max_epochs=epochs, val=None)
    assert len(snapshots(tmp_path)) == 5  # two of the second run have taken the places of two of the first one
    with pytest.raises(SolverError, match=r"is of another run than .*give the snapshots of one run only"):
        reconstruct([tmp_path / "averages"], sigma_rel=0.12)


def test_snapshots_of_a_run_and_of_what_resumed_it_are_of_one_run(tmp_path: Path) -> None:
    trainer = fit(Net(), PowerEMA(0.1, snapshots=4), folder=tmp_path, max_epochs=1, val=None)
    trainer.save_checkpoint(tmp_path / "1.ckpt")
    net, callback = Net(), PowerEMA(0.1, snapshots=4)
    fit(net, callback, folder=tmp_path, ckpt_path=tmp_path / "1.ckpt", val=None)
    made = reconstruct([tmp_path / "averages"], sigma_rel=0.1)
    assert len(made.snapshots) == 5
    assert made.step == 2 * STEPS
    close(of_state(made.state_dict), vector(net))


def test_a_fast_dev_run_writes_no_snapshot(tmp_path: Path) -> None:
    fit(Net(), PowerEMA(0.1, snapshots=1), folder=tmp_path, fast_dev_run=3, val=None)
    assert snapshots(tmp_path) == []
    fit(Net(), PowerEMA(0.1, snapshots=1), folder=tmp_path, max_steps=3, val=None)
    assert len(snapshots(tmp_path)) == 3
