"""The examples run as their users run them, on a copy, for a few steps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DIGITS = Path(__file__).parent.parent / "examples" / "digits"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("runs", "__pycache__")))


def run(folder: Path, *args: str) -> str:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_digits_plan(folder: Path) -> None:
    shown = run(folder, "train.py", "plan", "--config", "digits.yaml")
    assert "600 optimiser steps in 30 epochs" in shown
    assert "clip by GlobalNorm -> step AdamW -> move lr -> average (ema)" in shown
    assert "backbone.no_decay" in shown
    assert (folder / "runs" / "plan.png").exists()


def test_digits_fit_test_and_predict(folder: Path) -> None:
    shown = run(folder, "train.py", "fit", "--config", "digits.yaml", "--trainer.max_epochs=2")
    assert "test accuracy" in shown
    (made,) = folder.glob("runs/digits/version_*")
    for name in ("plan.png", "metrics.csv", "checkpoints/last.ckpt"):
        assert (made / name).exists()
        assert str(Path(name).name) in shown
    head = (made / "metrics.csv").read_text().splitlines()[0]
    columns = {
        "lr",
        "lr/min",
        "lr/max",
        "grad_norm",
        "grad_norm_clipped",
        "clip_share",
        "decay/ema",
        "steps",
        "time/step",
    }
    assert columns | {"train_loss", "val_acc", "test_acc"} <= set(head.split(","))
    again = run(
        folder,
        "train.py",
        "plan",
        "--config",
        "digits.yaml",
        "--trainer.max_epochs=2",
        "--with_log",
        str(made / "metrics.csv"),
    )
    assert "the greatest of all groups: exactly as planned" in again
    last = str(made / "checkpoints" / "last.ckpt")
    run(folder, "train.py", "test", "--config", "digits.yaml", "--ckpt_path", last)
    run(folder, "train.py", "predict", "--config", "digits.yaml", "--ckpt_path", last)
    assert len((next(folder.rglob("predictions.csv"))).read_text().splitlines()) == 361


def test_digits_with_an_optimiser_of_ones_own(folder: Path) -> None:
    own = "--model.solver.optimizer={name: optimizer.SignSGD, args: {lr: 0.002, weight_decay: 0.05}}"
    shown = run(folder, "train.py", "plan", "--config", "digits.yaml", own)
    assert "SignSGD: " in shown
    assert "implementation: own (SignSGD has one implementation)" in shown
    shown = run(folder, "train.py", "fit", "--config", "digits.yaml", "--trainer.max_epochs=3", own)
    assert float(shown.split("test accuracy ")[1].split(":")[0]) > 0.5
