"""Averages of checkpoints ("model soups"), uniform, weighted and greedy.

The paper is Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time" (2022); recipe 1 is the greedy soup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_solver.averaging.files import PathLike, WeightFile, find_weights
from lightning_solver.averaging.mixing import check_alike, mix, normalised, save_average
from lightning_solver.errors import SolverError

Score = Callable[[Mapping[str, Any]], float]
"""How good weights are: takes a ``state_dict``, returns a number."""


@dataclass(frozen=True)
class Trial:
    """One file that was tried for a greedy soup.

    Args:
        path: The file.
        score: Its own score.
        with_it: The score of the soup with it in; that of the file itself for the first one.
        taken: Whether it is in the soup.
    """

    path: Path
    score: float
    with_it: float
    taken: bool


@dataclass(frozen=True)
class Soup:
    """An average of files.

    Args:
        state_dict: The averaged weights.
        files: The files that are in it; of the last one are the tensors that cannot be averaged.
        shares: Their shares, which sum up to 1.
        trials: What was tried for a greedy soup, in the order of the scores, best first.
    """

    state_dict: dict[str, Any] = field(repr=False)
    files: tuple[WeightFile, ...]
    shares: tuple[float, ...]
    trials: tuple[Trial, ...] = ()

    @property
    def origin(self) -> dict[str, Any]:
        """What the saved file says of itself."""
        return {
            "kind": "greedy soup" if self.trials else "soup",
            "files": [str(file.path) for file in self.files],
            "shares": list(self.shares),
        }

    def save(self, path: PathLike, *, like: PathLike | None = None, force: bool = False) -> Path:
        """Write a file like the last one of those averaged, with the average as its weights.

        Of a Lightning checkpoint everything is kept but the state of its training (optimisers, loops, callbacks), so
        that ``load_from_checkpoint`` and ``trainer.test(ckpt_path=...)`` take it.

        Args:
            path: Where.
            like: A checkpoint of the same model of which all else is taken.
            force: Whether a file that is there may be replaced.

        Raises:
            SolverError: There is a file already, or it cannot be written; ``like`` is of another model.
        """
        return save_average(path, self.state_dict, self.origin, like or self.files[-1], force=force)


def uniform_soup(
    paths: PathLike | Iterable[PathLike],
    *,
    weights: Sequence[float] | None = None,
    key: str | None = None,
    pattern: str = "*.ckpt",
    last: int | None = None,
) -> Soup:
    """The mean of checkpoints, or a weighted one.

    Floating-point tensors are averaged in float64 and rounded once; whole numbers are those of the last file.

    Args:
        paths: Checkpoints, files with a ``state_dict``, folders with checkpoints.
        weights: A weight for each file, >= 0, in any unit; by default all count the same.
        key: Where in the files the weights are; ``state_dict`` or the whole file by default.
        pattern: The glob for files in folders.
        last: Take this many files only, those of the last steps.

    Raises:
        SolverError: Files that cannot be read, or are of different models; fewer than two.
    """
    return soup_of(find_weights(paths, key=key, pattern=pattern, last=last).files, weights)


def soup_of(files: Sequence[WeightFile], weights: Sequence[float] | None = None) -> Soup:
    """The mean of files that are open.

    Args:
        files: The files.
        weights: A weight for each, by default 1.

    Raises:
        SolverError: They are of different models, or fewer than two; or weights that do not fit.
    """
    _refuse_few(files)
    shares = normalised(weights, len(files))
    return Soup(mix(files, shares), tuple(files), shares)


def greedy_soup(
    paths: PathLike | Iterable[PathLike],
    score: Score,
    *,
    mode: Literal["max", "min"] = "max",
    key: str | None = None,
    pattern: str = "*.ckpt",
    last: int | None = None,
    on_score: Callable[[str, float], None] | None = None,
) -> Soup:
    """A mean of those checkpoints that do each other good.

    The files are sorted by their own scores, best first. The soup begins with the first one; each of the others is
    tried in turn, and stays if the score of the soup does not get worse by it. There are ``2 * n - 1`` calls of
    ``score`` for ``n`` files. The result is the uniform soup of the files taken, in the order in which they were given.

    Args:
        paths: Checkpoints, files with a ``state_dict``, folders with checkpoints.
        score: Takes a ``state_dict`` and returns a number, on data that are not used for the final test.
        mode: Whether a higher score is better (``max``) or a lower one (``min``).
        key: Where in the files the weights are; ``state_dict`` or the whole file by default.
        pattern: The glob for files in folders.
        last: Take this many files only, those of the last steps.
        on_score: Called with what was scored and the score, as long evaluations go on.

    Raises:
        SolverError: Files that cannot be read, or are of different models; fewer than two; a score that is no number,
            or not a number for every file.
    """
    files = find_weights(paths, key=key, pattern=pattern, last=last).files
    return greedy_soup_of(files, score, mode=mode, on_score=on_score)


def greedy_soup_of(
    files: Sequence[WeightFile],
    score: Score,
    *,
    mode: Literal["max", "min"] = "max",
    on_score: Callable[[str, float], None] | None = None,
) -> Soup:
    """The greedy soup of files that are open; see :func:`greedy_soup`.

    Args:
        files: The files.
        score: Takes a ``state_dict`` and returns a number.
        mode: Whether a higher score is better (``max``) or a lower one (``min``).
        on_score: Called with what was scored and the score.

    Raises:
        SolverError: As for :func:`greedy_soup`.
    """
    if mode not in ("max", "min"):
        raise SolverError("mode", "unknown value", got=repr(mode), do="give max or min")
    _refuse_few(files)
    check_alike(files, files[-1])
    sign = 1.0 if mode == "max" else -1.0

    def scored(members: Sequence[int], what: str) -> float:
        shares = (1.0 / len(members),) * len(members)
        value = _number(score(mix([files[i] for i in sorted(members)], shares)), what)
        if on_score is not None:
            on_score(what, value)
        return value

    own = [scored([i], str(file.path)) for i, file in enumerate(files)]
    if all(math.isnan(value) for value in own):
        raise SolverError("score", "is not a number for any of the files", got="nan", do="correct the score")
    order = sorted(range(len(files)), key=lambda i: math.inf if math.isnan(own[i]) else -sign * own[i])
    members, best = [order[0]], own[order[0]]
    trials = [Trial(files[order[0]].path, best, best, True)]
    for i in order[1:]:
        value = scored([*members, i], f"soup of {len(members) + 1} with {files[i].path}")
        taken = sign * value >= sign * best
        if taken:
            members, best = [*members, i], value
        trials.append(Trial(files[i].path, own[i], value, taken))
    chosen = [files[i] for i in sorted(members)]
    shares = (1.0 / len(chosen),) * len(chosen)
    return Soup(mix(chosen, shares), tuple(chosen), shares, tuple(trials))


def _number(value: Any, what: str) -> float:
    if isinstance(value, (str, bytes, bool)) or value is None:
        raise SolverError(f"score of {what}", "is not a number", got=repr(value), do="return a number")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor of several numbers says RuntimeError
        raise SolverError(f"score of {what}", "is not a number", got=repr(value)[:80], do="return a number") from error


def _refuse_few(files: Sequence[WeightFile]) -> None:
    if len(files) < 2:
        got = ", ".join(str(file.path) for file in files) or "none"
        raise SolverError("files", "an average needs at least two", got=got, do="give more")
