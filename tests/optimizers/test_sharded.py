"""Sharded parameters (FSDP2) with two processes for real, on the CPU; the cases are in sharded_cases.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7), reason="FSDP2 ran on GPUs only in torch 2.6"
)
@pytest.mark.parametrize(
    "case", [["implementations", "mixed"], ["refused", "wrong_in_silence"], ["composite"]], ids=str
)
def test_two_processes(case: list[str]) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(here / "sharded_cases.py"), *case],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
