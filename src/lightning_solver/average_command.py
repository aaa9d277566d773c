"""The subcommand ``lightning-solver average``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lightning_solver.errors import SolverError

if TYPE_CHECKING:
    from lightning_solver.averaging.files import WeightFile
    from lightning_solver.averaging.post_hoc import Reconstruction
    from lightning_solver.averaging.soups import Score, Soup

_SOUP_ONLY = ("weights", "key", "last")
_GREEDY_ONLY = ("score", "config", "metric", "mode")
_POST_HOC_ONLY = ("step",)


def add_average(commands: Any) -> tuple[str, Callable[[argparse.Namespace], int]]:
    """Add the subcommand.

    Args:
        commands: The subcommands.

    Returns:
        Its name, and what runs it.
    """
    parser = commands.add_parser(
        "average",
        help="average checkpoints: uniform, weighted or greedy, or an EMA of any length from snapshots",
        description="Averages the weights of checkpoints. The output is a checkpoint like the last one, without the "
        "state of optimisers, loops and callbacks. With --greedy: of those that do each other good, by a score. With "
        "--sigma-rel: the power-function average of this length, from the snapshots of a PowerEMA.",
    )
    parser.add_argument("files", nargs="+", help="checkpoints, files with a state_dict, folders with checkpoints")
    parser.add_argument("-o", "--output", required=True, help="file to write")
    parser.add_argument("--force", action="store_true", help="replace the output if it is there")
    parser.add_argument("--like", metavar="FILE", help="checkpoint of which all but the weights is taken")
    parser.add_argument("--glob", default="*.ckpt", help="which files of a folder, by default *.ckpt")
    soup = parser.add_argument_group("averages of checkpoints")
    soup.add_argument("--weights", type=float, nargs="+", help="a weight for each file, in any unit; by default equal")
    soup.add_argument("--last", type=int, metavar="K", help="the K files of the last steps only")
    soup.add_argument("--key", help="where in the files the weights are, by default state_dict or the whole file")
    greedy = parser.add_argument_group("greedy averages")
    greedy.add_argument("--greedy", action="store_true", help="take a file if the score does not get worse by it")
    greedy.add_argument("--score", metavar="MODULE:FUNCTION", help="takes a state_dict and returns a number")
    what = "in place of --score: YAML of a SolverCLI that names its module (model: class_path), which is validated"
    greedy.add_argument("--config", help=what)
    greedy.add_argument("--metric", help="the metric of that validation, such as val_acc")
    what = "whether a higher score is better (max), or a lower one (min)"
    greedy.add_argument("--mode", choices=("max", "min"), help=what)
    post_hoc = parser.add_argument_group("averages worked out from snapshots")
    post_hoc.add_argument("--sigma-rel", type=float, help="length, as a part of the run: above 0, below 0.28")
    post_hoc.add_argument("--step", type=int, help="the step up to which to average, by default that of the last file")
    return "average", _average


def _average(arguments: argparse.Namespace) -> int:
    from lightning_solver.averaging.files import read_weights, refuse_place

    _refuse_mixtures(arguments)
    refuse_place(arguments.output, force=arguments.force)  # before hours of evaluation
    if arguments.like is not None:
        read_weights(arguments.like)
    if arguments.sigma_rel is not None:
        from lightning_solver.averaging.post_hoc import reconstruct

        made = reconstruct(arguments.files, sigma_rel=arguments.sigma_rel, step=arguments.step, pattern=arguments.glob)
        print(_tell_reconstruction(made))
        path = made.save(arguments.output, like=arguments.like, force=arguments.force)
    else:
        soup = _soup(arguments)
        print(_tell_soup(soup))
        path = soup.save(arguments.output, like=arguments.like, force=arguments.force)
    print(f"\nwritten: {path}")
    return 0


def _refuse_mixtures(arguments: argparse.Namespace) -> None:
    """Refuse options of one kind of average beside another."""
    refused: tuple[str, ...]
    if arguments.sigma_rel is not None:
        refused, kind = (*_SOUP_ONLY, "greedy", *_GREEDY_ONLY), "of an average from snapshots (--sigma-rel)"
    elif arguments.greedy:
        refused, kind = (*_POST_HOC_ONLY, "weights"), "of a greedy average (--greedy)"
    else:
        refused, kind = (*_POST_HOC_ONLY, *_GREEDY_ONLY), "of an average of checkpoints"
    for name in refused:
        value = getattr(arguments, name)
        if value is not None and value is not False:
            needed = "--sigma-rel" if name in _POST_HOC_ONLY else "--greedy"
            do = f"give {needed} too, or leave it out" if "--" not in kind else "leave it out"
            raise SolverError(f"--{name}", f"is no option {kind}", got=_said(value), do=do)
    if arguments.further and arguments.config is None:
        raise SolverError("average", "unknown arguments", got=" ".join(arguments.further), do="leave them out")
    if not arguments.greedy:
        return
    if (arguments.score is None) == (arguments.config is None):
        do = "give --score package.module:function, or --config config.yaml --metric val_acc"
        raise SolverError("--greedy", "needs one way to score the weights", do=do)
    if (arguments.config is None) != (arguments.metric is None):
        missing, given = ("--metric", "--config") if arguments.metric is None else ("--config", "--metric")
        raise SolverError(given, f"needs {missing}", do=f"give {missing} too")
    if arguments.mode is None:
        do = "give --mode max for an accuracy, --mode min for a loss"
        raise SolverError("--greedy", "does not know whether a higher score is better", do=do)


def _said(value: Any) -> str | None:
    if value is True:
        return None
    return " ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


# ------------------------------------------------------------------ soups


def _soup(arguments: argparse.Namespace) -> Soup:
    from lightning_solver.averaging.files import find_weights
    from lightning_solver.averaging.soups import greedy_soup_of, soup_of

    found = find_weights(arguments.files, key=arguments.key, pattern=arguments.glob, last=arguments.last)
    for note in found.notes:
        print(f"note: {note}")
    if not arguments.greedy:
        return soup_of(found.files, arguments.weights)
    score = _score(arguments, found.files)
    return greedy_soup_of(found.files, score, mode=arguments.mode, on_score=_tell_score)


def _score(arguments: argparse.Namespace, files: Sequence[WeightFile]) -> Score:
    sys.path.insert(0, os.getcwd())  # where the user's own modules are, as for a script
    if arguments.config is not None:
        from lightning_solver.scoring import ValidationScore

        sys.argv = [sys.argv[0]]
        return ValidationScore(arguments.config, arguments.metric, files[-1], arguments.further)
    from lightning_solver.plain import import_dotted

    found = import_dotted(arguments.score.replace(":", "."), "--score")
    if not callable(found):
        do = "name a function that takes a state_dict and returns a number"
        raise SolverError("--score", "cannot be called", got=repr(arguments.score), do=do)
    score: Score = found
    return score


def _tell_score(what: str, score: float) -> None:
    print(f"{score:<12.6g} {what}", flush=True)


def _tell_soup(soup: Soup) -> str:
    lines = []
    if soup.trials:
        rows = [
            [f"{trial.score:.6g}", f"{trial.with_it:.6g}", "yes" if trial.taken else "no", str(trial.path)]
            for trial in soup.trials
        ]
        lines += ["", *_table(["own score", "soup with it", "taken", "file"], rows), ""]
    rows = [
        [f"{share:.4g}", "-" if file.step is None else str(file.step), str(file.path)]
        for file, share in zip(soup.files, soup.shares)
    ]
    return "\n".join([*lines, *_table(["share", "step", "file"], rows)])


# ------------------------------------------------------------------ snapshots


def _tell_reconstruction(made: Reconstruction) -> str:
    rows = [
        [f"{share:+.4f}", str(snapshot.count.steps), f"{_length(snapshot):.3g}", str(snapshot.file.path)]
        for snapshot, share in zip(made.snapshots, made.fit.coefficients)
    ]
    return "\n".join(
        [
            *_table(["share", "step", "sigma_rel", "file"], rows),
            "",
            f"sigma_rel {made.sigma_rel:.4g} at step {made.step}",
            f"residual of the fit: {made.fit.residual:.2g} (0 is exact)",
            f"rounding errors of the snapshots count {made.fit.gain:.2g} times",
            *(f"note: {note}" for note in made.notes),
        ]
    )


def _length(snapshot: Any) -> float:
    from lightning_solver.averaging.kinds import sigma_rel_of

    length: float = sigma_rel_of(snapshot.average.exponent)
    return length


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (head, *rows)]
