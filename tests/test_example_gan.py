"""The GAN runs as its users run it, on a copy, for a few steps."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GAN = Path(__file__).parent.parent / "examples" / "gan"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GAN, tmp_path / "gan", ignore=shutil.ignore_patterns("runs", "__pycache__")))


def run(folder: Path, *args: str) -> str:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "gan.py", *args, "--config", "gan.yaml"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_plan_of_both(folder: Path) -> None:
    shown = run(folder, "plan")
    assert shown.count("2,520 optimiser steps, 90 epochs of 28") == 2
    assert shown.count("GlobalNorm (max_norm 1); all") == 2
    for name in ("generator", "discriminator"):
        assert (folder / "runs" / f"plan_{name}.png").exists()


def test_a_few_epochs_make_the_digits_better(folder: Path) -> None:
    shown = run(folder, "fit", "--trainer.max_epochs=4", "--model.width=128")
    found = re.search(r"Frechet distance of pixels ([\d.]+), ([\d.]+) before training", shown)
    assert found is not None
    assert float(found[1]) < 0.7 * float(found[2])
    (made,) = folder.glob("runs/gan/version_*")
    assert (made / "samples.png").read_bytes().startswith(b"\x89PNG")
    head = (made / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"lr/generator/default", "lr/discriminator/default", "generator_loss", "discriminator_loss"} <= set(head)
