"""The command ``lightning-solver``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_solver.average_command import add_average
from lightning_solver.errors import SolverError
from lightning_solver.spec import SolverSpec


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments in place of those of the process.

    Returns:
        The exit status: 0, 1 if ``diff`` found a difference, 2 after an error.
    """
    parser = argparse.ArgumentParser(prog="lightning-solver", description="Specifications of how a model is trained.")
    commands = parser.add_subparsers(dest="command", required=True)
    runs: dict[str, Callable[[argparse.Namespace], int]] = {}
    for add in (_add_plan, _add_import, _add_diff, _add_schema, add_average):
        name, run = add(commands)
        runs[name] = run
    arguments, further = parser.parse_known_args(argv)
    if further and arguments.command not in ("plan", "average"):
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    arguments.further = further
    try:
        return runs[arguments.command](arguments)
    except SolverError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


# ------------------------------------------------------------------ plan


def _add_plan(commands: Any) -> tuple[str, Any]:
    parser = commands.add_parser(
        "plan",
        help="print and draw what fit would do; or the curves of a block by itself",
        description="Prints and draws what fit would do, from a YAML that names a module; further arguments override "
        "the YAML, as in --solver.lr=0.1. With --total-steps: the curves of a solver block, without a module.",
    )
    parser.add_argument(
        "config", help="YAML of a SolverCLI that names the module: model: {class_path: ...}; or a block"
    )
    parser.add_argument(
        "--with-log",
        metavar="CSV",
        help="metrics.csv of a run by this YAML: what really happened is compared with the plan, and drawn beside it",
    )
    _add_run(parser)
    return "plan", _plan


def _plan(arguments: argparse.Namespace) -> int:
    if arguments.total_steps is None:
        from lightning_solver.cli import SolverCLI
        from lightning_solver.files import names_a_module

        if not arguments.further and not names_a_module(arguments.config):
            do = "give --total-steps for the curves of a block, or a YAML with model: {class_path: ...}"
            raise SolverError(arguments.config, "names no module to make a plan for", do=do)

        sys.path.insert(0, os.getcwd())  # where the user's own modules are, as for a script
        sys.argv = [sys.argv[0]]
        log = [] if arguments.with_log is None else [f"--with_log={arguments.with_log}"]
        SolverCLI(args=["plan", "--config", arguments.config, *log, *arguments.further], seed_everything_default=False)
        return 0
    from lightning_solver.chart import chart
    from lightning_solver.clipping.clip import numbered_clips
    from lightning_solver.comparison import base_of
    from lightning_solver.files import stored_parts
    from lightning_solver.several import ALONE

    if arguments.further:
        got = " ".join(arguments.further)
        raise SolverError("plan", "takes nothing else beside --total-steps", got=got, do="leave it out")
    if arguments.with_log is not None:
        do = "give a YAML with model: {class_path: ...}, and no --total-steps"
        raise SolverError("--with-log", "needs the module that was trained, for its groups", do=do)
    run = _run_length(arguments)
    for name, found in stored_parts(arguments.config).items():
        for title, one, option in _scheduled(found.spec):
            base, said = base_of(one, option, arguments.base)
            head = title if name == ALONE else f"{name}: {title}"
            if not said:
                head += ", as a factor of the base value (of a base value of 1: see --base)"
            print(f"{chart({option: one.curve(option, [base], run=run)[:, 0]}, title=head)}\n")
        for clip, path in numbered_clips(found.spec.clip):
            limits = clip.curve(run)
            if limits is not None:
                head = f"{'' if name == ALONE else f'{name}: '}{path}: {clip.describe()}"
                values = clip.limits_at(np.arange(arguments.total_steps), limits)
                print(f"{chart({clip.limited_by: values}, title=head)}\n")
        for average, planned in found.spec.averages.items():
            shares = planned.lay(run, f"averages.{average}")
            when = f"{shares.updates(arguments.total_steps)} updates, the first after step {shares.first}"
            print(f"{'' if name == ALONE else f'{name}: '}averages.{average}: {type(planned).__name__}, {when}\n")
    return 0


def _scheduled(spec: SolverSpec) -> list[tuple[str, SolverSpec, str]]:
    """Every schedule of a spec, those of its rules too: what it is called, a spec that has it, its option."""
    found = [(option, spec, option) for option in spec.schedules]
    for i, rule in enumerate(spec.rules):
        own = spec.replace(schedules=rule.schedules)
        found += [(f"rules[{i}].schedules.{option}", own, option) for option in rule.schedules]
    return found


def _add_run(parser: argparse.ArgumentParser, default: int | None = None) -> None:
    parser.add_argument(
        "--total-steps",
        type=int,
        default=default,
        help=f"optimiser steps of the run (of each optimiser){f', by default {default}' if default else ''}",
    )
    parser.add_argument("--steps-per-epoch", type=float, help="optimiser steps of an epoch")
    parser.add_argument("--base", type=float, help="base value of the group that is shown, where the block has none")


def _run_length(arguments: argparse.Namespace) -> Any:
    from lightning_solver.durations import RunLength

    return RunLength(total_steps=arguments.total_steps, steps_per_epoch=arguments.steps_per_epoch)


# ------------------------------------------------------------------ import


def _add_import(commands: Any) -> tuple[str, Any]:
    parser = commands.add_parser(
        "import",
        help="read the config of another system and print the block in YAML",
        description="Prints the block that gives the same numbers, with what there is to know about it as comments.",
    )
    parser.add_argument("--from", dest="peer", required=True, help="mmcv, mmengine, detectron2, pet, timm, ...")
    parser.add_argument("config", help="config file: .py (read, never executed), .yaml or .json")
    parser.add_argument(
        "--fact", action="append", default=[], metavar="NAME=VALUE", help="what the config leaves to its surroundings"
    )
    parser.add_argument("--strict", action="store_true", help="an error for every key that is not mapped")
    parser.add_argument("--output", help="file to write, in place of the terminal")
    return "import", _import


def _import(arguments: argparse.Namespace) -> int:
    from lightning_solver.files import importer, to_yaml

    imported = importer(arguments.peer)(
        Path(arguments.config), facts=dict(map(_fact, arguments.fact)), strict=arguments.strict
    )
    text = "".join(f"# {note}\n" for note in imported.notes) + to_yaml(imported.spec)
    _give_out(text, arguments.output)
    return 0


def _give_out(text: str, output: str | None) -> None:
    """Print a text, or write it into a file."""
    if output is None:
        print(text, end="")
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        do = "give a path in a folder that is there"
        raise SolverError("--output", f"cannot be written: {error.strerror}", got=output, do=do) from error


def _fact(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise SolverError("--fact", "is not NAME=VALUE", got=repr(text), do="write it as --fact iters_per_epoch=100")
    return name, yaml.safe_load(value)


# ------------------------------------------------------------------ diff


def _add_diff(commands: Any) -> tuple[str, Any]:
    parser = commands.add_parser(
        "diff",
        help="compare two specs, configs or checkpoints",
        description="Compares settings, groups (of checkpoints) and curves. Exits with 1 if something differs.",
    )
    for name in ("a", "b"):
        parser.add_argument(name, help="YAML or JSON with a solver block, a checkpoint, or PEER:CONFIG")
    _add_run(parser, default=1000)
    return "diff", _diff


def _diff(arguments: argparse.Namespace) -> int:
    from lightning_solver.comparison import compare_parts
    from lightning_solver.files import stored_parts

    a, b = stored_parts(arguments.a), stored_parts(arguments.b)
    differ, text = compare_parts(a, b, _run_length(arguments), arguments.base)
    print(text)
    return int(differ)


# ------------------------------------------------------------------ schema


def _add_schema(commands: Any) -> tuple[str, Any]:
    parser = commands.add_parser(
        "schema",
        help="print a JSON schema of the block, for editors",
        description="Prints a JSON schema, by which editors complete and check the YAML.",
    )
    parser.add_argument("--config", action="store_true", help="of a whole CLI configuration, not of the block alone")
    parser.add_argument("--output", help="file to write, in place of the terminal")
    return "schema", _schema


def _schema(arguments: argparse.Namespace) -> int:
    from lightning_solver.schema import block_schema, config_schema

    text = json.dumps(config_schema() if arguments.config else block_schema(), indent=2)
    _give_out(text + "\n", arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
