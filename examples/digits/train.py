"""Trains the digits classifier, or shows how it would be trained.

python train.py {plan,fit,validate,test,predict} --config digits.yaml
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from data import DigitsData
from lightning.pytorch.cli import ArgsType
from model import DigitClassifier

from lightning_solver import SolverCLI
from lightning_solver.callbacks import SolverMonitor

# All images are in memory: loader processes, which Lightning recommends, would only take time to start.
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
# Each run has a folder of its own, also one that goes on from the checkpoint of another.
warnings.filterwarnings("ignore", message=".*dirpath has changed.*")
# A matter between Lightning and torch.
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.* is deprecated.*")


@dataclass(frozen=True)
class Result:
    """What a training led to."""

    test_accuracy: float
    live_accuracy: float | None  # of the trained weights, where an average of them was tested
    test_images: int
    seconds: float
    files: dict[str, Path]

    def __str__(self) -> str:
        lines = [f"trained in {self.seconds:.1f} s"]
        live = self.live_accuracy
        which = "the final weights" if live is None else "the average of the weights"
        for name, accuracy in ((which, self.test_accuracy), ("the final weights", live)):
            if accuracy is not None:
                right = round(accuracy * self.test_images)
                lines.append(f"test accuracy {accuracy:.4f}: {right} of {self.test_images} images, by {name}")
        # without a logger there is no log, and so on
        lines += [f"{name:11} {path.resolve()}" for name, path in self.files.items() if path.is_file()]
        return "\n".join(lines)


class DigitsCLI(SolverCLI):
    """Tests after ``fit``, and draws the plan with what happened; keeps what is written in the folder of the run."""

    result: Result | None = None

    def folder(self) -> Path:
        """The run's own folder, runs/digits/version_<number>."""
        return Path(self.trainer.log_dir or self.trainer.default_root_dir)

    def before_fit(self) -> None:
        self.start = time.perf_counter()

    def after_fit(self) -> None:
        """Test once, with the weights at the end: their average, and the final ones themselves.

        The schedule ends with the run, so these are the weights that it leads to. The best of 30 epochs by 237
        validation images is ahead of them by an image or two, which is luck more than anything.
        """
        seconds = time.perf_counter() - self.start
        (scores,) = self.trainer.test(self.model, self.datamodule, verbose=False)
        log = self.folder() / "metrics.csv"
        monitored = any(isinstance(callback, SolverMonitor) for callback in self.trainer.callbacks) and log.is_file()
        files = {
            "plan": self.model.solver_plan.draw(self.folder() / "plan.png", log=log if monitored else None),
            "log": log,
            "checkpoint": self.folder() / "checkpoints" / "last.ckpt",
        }
        accuracies = scores["test_acc"], scores.get("test_acc_live")
        self.result = Result(*accuracies, len(self.datamodule.test_set), seconds, files)

    def after_predict(self) -> None:
        """Write down what ``predict`` would only return."""
        predictions = torch.cat(self.trainer.predict_loop.predictions).tolist()
        path = self.folder() / "predictions.csv"
        path.write_text("image,digit\n" + "".join(f"{i},{digit}\n" for i, digit in enumerate(predictions)))
        print(f"predictions {path.resolve()}")


def main(args: ArgsType = None) -> DigitsCLI:
    """Do what the command line says, or ``args`` in its place."""
    # The model is so small that more threads gain a second or two, and lose a minute waiting for each other where
    # other programs are at work. One also gives the same numbers on any number of cores.
    torch.set_num_threads(1)
    # overwrite: runs without a logger share one folder, and the next one should not stumble over the last one's config
    return DigitsCLI(DigitClassifier, DigitsData, save_config_kwargs={"overwrite": True}, args=args)


if __name__ == "__main__":
    cli = main()
    if cli.result is not None and cli.trainer.is_global_zero:
        print(f"\n{cli.result}")
