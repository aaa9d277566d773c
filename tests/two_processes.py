"""Runs the cases of a script in two processes, one after another in one process group: starting takes longer than most."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def start(script: Path, *arguments: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes, which find what lies beside it, beside this file, and where this one looks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    folders = dict.fromkeys([str(script.parent), str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders)), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def launch(script: Path, cases: Sequence[str], folder: Path, timeout: int = 900) -> tuple[set[str], str]:
    """Run cases of a script in two processes; after one that fails no more are run.

    Returns:
        The cases that have passed, and what was said.
    """
    done = start(script, *cases, str(folder), timeout=timeout)
    passed = {line.removeprefix("passed ") for line in done.stdout.splitlines() if line.startswith("passed ")}
    return passed, done.stdout[-2000:] + done.stderr[-6000:]


def run_cases(defined: Mapping[str, Any]) -> None:
    """What a script does when it is launched: the cases that its arguments name, each in a folder of its own.

    Args:
        defined: Name -> function of a folder.
    """
    *cases, folder = sys.argv[1:]
    for case in cases:
        own = Path(folder) / case
        own.mkdir(parents=True, exist_ok=True)
        try:
            defined[case](own)
        except BaseException:
            print(f"failed {case}", file=sys.stderr)
            traceback.print_exc()
            os._exit(1)  # the other process may wait for this one
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        torch.distributed.barrier()
        if torch.distributed.get_rank() == 0:
            print(f"passed {case}", flush=True)
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of the process group may abort an orderly exit of the interpreter, after all is said and done
