"""Every block of the README runs as it is written there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
FILES = {
    found[2]: found[0]
    for found in re.findall(r"```(?:python|yaml)\n((# (\S+)\n).*?)```", README.read_text(), re.DOTALL)
}
BLOCKS = re.findall(r"```(python|yaml)\n", README.read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_block_is_a_file_of_its_own() -> None:
    assert len(FILES) == len(BLOCKS) == 6


def test_it_opens_with_the_two_commands() -> None:
    assert re.match(r"# lightning-solver\n\n```console\n\$ make train .*\n\$ make test ", README.read_text())


def test_mixin(folder: Path) -> None:
    out = run(folder, "net.py")
    assert "80 optimiser steps, 5 epochs of 16" in out
    assert "backbone.no_decay" in out


def test_command_line(folder: Path) -> None:
    commands = re.findall(r"^\$ python (train\.py .*?)\s*(?:#.*)?$", README.read_text(), re.MULTILINE)
    assert len(commands) == 4
    plan, fit, resume, look = (command.split() for command in commands)
    shown = run(folder, *plan)
    assert (folder / "plan.png").exists()
    # the table in the README is what is printed
    table = re.search(r"```text\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert table is not None
    for line in table[1].splitlines():
        if not line.startswith("-"):
            assert line.removesuffix("...") in shown
    run(folder, *fit)
    (saved,) = folder.glob("lightning_logs/version_*/checkpoints/*.ckpt")
    monitored = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=.", "--trainer.callbacks+=SolverMonitor"]
    run(folder, *fit, *monitored)
    (log,) = folder.glob("lightning_logs/version_*/metrics.csv")
    assert "lr of backbone" in run(folder, *look[:-1], str(log))
    saved.rename(folder / "last.ckpt")
    run(folder, *resume)


def test_bare_loop(folder: Path) -> None:
    assert "200 optimiser steps" in run(folder, "loop.py")


def test_bring(folder: Path) -> None:
    out = run(folder, "bring.py")
    assert "{'class_path': 'Polynomial', 'init_args': {'power': 0.9, 'end': {'absolute': 0.0001}}}" in out


def test_resume(folder: Path) -> None:
    run(folder, "resume.py")


def test_every_schedule_and_kind_is_named() -> None:
    from lightning_solver import schedules
    from lightning_solver.rule import KINDS

    text = README.read_text()
    for name in schedules.__all__:
        if name not in ("Curve", "Level", "Schedule", "Window"):
            assert f"`{name}(" in text
    for kind in KINDS:
        assert f"`{kind}`" in text
