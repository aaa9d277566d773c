"""Two processes for real, on the CPU; the cases themselves are in distributed_cases.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = ["ddp_uneven", "ddp_resume", "ddp_plateau", "fsdp2", "fsdp2_resume", "fsdp2_other_groups", "fsdp1"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes(case: str, tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(here / "distributed_cases.py"), case, str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
