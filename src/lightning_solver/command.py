"""The command ``lightning-solver``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: Arguments in place of those of the process.
    """
    parser = argparse.ArgumentParser(prog="lightning-solver", description="Specifications of how a model is trained.")
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser(
        "plan",
        help="print and draw what fit would do, from a YAML that names a module",
        description="Prints and draws what fit would do. Further arguments override the YAML, as in --solver.lr=0.1",
    )
    plan.add_argument(
        "config", help="YAML of a LightningCLI or SolverCLI that names the module: model: {class_path: ...}"
    )
    known, further = parser.parse_known_args(argv)

    from lightning_solver.cli import SolverCLI

    sys.path.insert(0, os.getcwd())  # where the user's own modules are, as for a script
    sys.argv = [sys.argv[0]]
    SolverCLI(args=["plan", "--config", known.config, *further], seed_everything_default=False)


if __name__ == "__main__":
    main()
