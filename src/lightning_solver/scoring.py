"""How good weights are, by the validation of a module that a CLI configuration names."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_solver.averaging.files import WeightFile
from lightning_solver.cli import SolverCLI
from lightning_solver.errors import SolverError, suggestion


class ValidationScore:
    """Validates weights as ``SolverCLI validate --config ... --ckpt_path ...`` does, in one process.

    Args:
        config: YAML of a SolverCLI that names the module and its data.
        metric: The name under which the module logs the score.
        like: A file of the kind of those that are scored; a checkpoint that the module loads is made like it.
        further: Further arguments of the CLI, such as ``--trainer.limit_val_batches=10``.
    """

    def __init__(self, config: str, metric: str, like: WeightFile, further: Sequence[str] = ()) -> None:
        self._metric, self._like, self._config = metric, like, config
        args = ["validate", "--config", config, *further]
        self._cli = _Prepared(args=args, seed_everything_default=False, save_config_callback=None)

    def __call__(self, state_dict: Mapping[str, Any]) -> float:
        """The metric of weights.

        Raises:
            SolverError: The module does not take them, cannot be validated, or logs no such metric.
        """
        content = self._like.replaced(state_dict, {})
        if "pytorch-lightning_version" not in content:
            content = {"state_dict": state_dict, "epoch": 0, "global_step": 0}
            content["pytorch-lightning_version"] = lightning.__version__
        cli = self._cli
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scored.ckpt"
            torch.save(content, path)
            try:
                cli.trainer.validate(
                    cli.model, datamodule=cli.datamodule, ckpt_path=str(path), verbose=False, weights_only=True
                )
            except MisconfigurationException as error:
                what, do = "its module cannot be validated", "name one with validation_step and data for it"
                raise SolverError(self._config, what, got=str(error), do=do) from error
            except RuntimeError as error:
                if "loading state_dict" not in str(error):
                    raise
                do = "give the configuration that the files were trained with"
                got = " ".join(str(error).split())[:200]
                raise SolverError(self._config, "its module does not take the weights", got=got, do=do) from error
        found = cli.trainer.callback_metrics
        if self._metric not in found:
            do = suggestion(self._metric, found, "metrics")
            raise SolverError("--metric", "is not logged by validation", got=repr(self._metric), do=do)
        return float(found[self._metric])


class _Prepared(SolverCLI):
    """A CLI that makes everything and leaves ``validate`` to its user."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        kwargs.update(logger=False, devices=1, num_nodes=1)
        return super().instantiate_trainer(**kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Called by LightningCLI in place of the method of the Trainer."""
