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

# All images are in memory: loader processes, which Lightning recommends, would only take time to start.
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
# Between Lightning and torch; nothing that this example could do about it.
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.* is deprecated.*")


@dataclass(frozen=True)
class Result:
    """What a training led to."""

    test_accuracy: float
    images: int
    seconds: float
    folder: Path

    def __str__(self) -> str:
        wrong = round((1 - self.test_accuracy) * self.images)
        return (
            f"trained in {self.seconds:.1f} s\n"
            f"test accuracy {self.test_accuracy:.4f} ({wrong} of {self.images} images wrong)\n"
            f"plan        {self.folder / 'plan.png'}\n"
            f"log         {self.folder / 'metrics.csv'}\n"
            f"checkpoint  {self.folder / 'checkpoints' / 'last.ckpt'}"
        )


class DigitsCLI(SolverCLI):
    """Draws the plan and runs the test after ``fit``; keeps every output in the folder of the run."""

    result: Result | None = None

    def folder(self) -> Path:
        """The run's own folder, by default runs/digits/version_<number>."""
        return Path(self.trainer.log_dir or self.trainer.default_root_dir)

    def before_plan(self) -> None:
        """Put the picture where everything else is, unless a place was given."""
        options = self.config_init["plan"]
        if options["output"] == "plan.png":
            options["output"] = str(self.folder() / "plan.png")

    def before_fit(self) -> None:
        self.start = time.perf_counter()

    def after_fit(self) -> None:
        """Test once, with the final weights.

        The schedule ends with the run, so the last weights are the ones that it leads to. Those that are best on 237
        validation images would differ from them by an image or two, which is luck more than anything.
        """
        seconds = time.perf_counter() - self.start
        (scores,) = self.trainer.test(self.model, self.datamodule, verbose=False)
        self.model.solver_plan.draw(self.folder() / "plan.png")
        self.result = Result(scores["test_acc"], len(self.datamodule.test_set), seconds, self.folder())

    def after_predict(self) -> None:
        """Write down what ``predict`` would only return."""
        predictions = torch.cat(self.trainer.predict_loop.predictions).tolist()
        path = self.folder() / "predictions.csv"
        path.write_text("image,digit\n" + "".join(f"{i},{digit}\n" for i, digit in enumerate(predictions)))
        print(f"predictions {path}")


def main(args: ArgsType = None) -> DigitsCLI:
    """Do what the command line says, or ``args`` in its place."""
    # Of a second run without a logger of its own, the settings replace those of the first.
    return DigitsCLI(DigitClassifier, DigitsData, save_config_kwargs={"overwrite": True}, args=args)


if __name__ == "__main__":
    cli = main()
    if cli.result is not None and cli.trainer.is_global_zero:
        print(f"\n{cli.result}")
