"""Sharded parameters (FSDP2) with two processes for real, on the CPU; the cases are in sharded_cases.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from two_processes import start


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7), reason="FSDP2 ran on GPUs only in torch 2.6"
)
@pytest.mark.parametrize(
    "case", [["implementations", "mixed"], ["refused", "wrong_in_silence"], ["composite"]], ids=str
)
def test_two_processes(case: list[str]) -> None:
    done = start(Path(__file__).parent / "sharded_cases.py", *case)
    assert done.returncode == 0, done.stderr[-4000:]
