"""Averages of a length that is chosen after training, from snapshots of power-function averages.

A power-function average after ``t`` steps holds the weights of step ``tau`` in proportion to its profile,
``p(tau) = (gamma + 1) * tau ** gamma / t ** (gamma + 1)`` on ``0 < tau <= t``. The profile that is wanted is written as
a sum of the profiles of the snapshots, as well as it can be; the snapshots are summed up with the same coefficients.

The paper is Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models" (2024), section 3.2 and
appendix C.3. Two things are decided here:

- The profiles are the paper's continuous ones. In ``PowerEMA`` the weights of a step have the integral of the profile
  over the steps since the update before, so that a fit of the continuous profiles holds for what was really averaged,
  at least as well. Fits of the discrete profiles come out the same, to 2% of the error from 500 steps on.
- The coefficients sum up to 1, to which the paper does not hold them. What is constant in the weights, which is most of
  them towards the end of training, comes out exactly then. Of random walks around a constant, averages at the edges of
  what the snapshots reach have a tenth of the error that they have otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_solver.averaging.average import Average, Count
from lightning_solver.averaging.files import PathLike, WeightFile, as_paths, find_weights, read_weights, write_file
from lightning_solver.averaging.kinds import PowerEMA, sigma_rel_of
from lightning_solver.averaging.mixing import mix, save_average
from lightning_solver.errors import SolverError
from lightning_solver.plain import conform, field_hints, thaw
from lightning_solver.rules.inventory import own_name

SNAPSHOT_KEY = "lightning_solver_snapshot"
"""Where a file says of which average it is a snapshot."""

POOR_FIT = 0.1
"""A residual above which an average that was worked out is not to be relied upon."""

NO_FIT = 0.5
"""A residual above which nothing is worked out."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """How much the weights of each moment count in a power-function average.

    Args:
        gamma: The exponent, >= 0.
        time: Up to when the weights are averaged, > 0, in steps since the average began.
    """

    gamma: float
    time: float

    def __call__(self, time: Numbers) -> Numbers:
        """The profile at moments; 0 outside of what is averaged."""
        inside = (time > 0) & (time <= self.time)
        values = (self.gamma + 1) / self.time * (np.where(inside, time, 1.0) / self.time) ** self.gamma
        return np.where(inside, values, 0.0)


def inner_products(a: Iterable[Profile], b: Iterable[Profile]) -> Numbers:
    """The integrals of the products of profiles.

    Of profiles of the exponents ``g`` and ``h`` up to ``s <= t``, the integral is
    ``(g + 1) * (h + 1) / (g + h + 1) * (s / t) ** h / t``.

    Args:
        a: Profiles.
        b: Profiles.

    Returns:
        An array of shape (len(a), len(b)).

    Example:
        >>> inner_products([Profile(0.0, 2.0)], [Profile(0.0, 2.0), Profile(1.0, 2.0), Profile(1.0, 4.0)]).tolist()
        [[0.5, 0.5, 0.125]]
    """
    first, second = list(a), list(b)
    gamma_a, gamma_b = np.array([p.gamma for p in first])[:, None], np.array([p.gamma for p in second])[None]
    time_a, time_b = np.array([p.time for p in first])[:, None], np.array([p.time for p in second])[None]
    later = np.maximum(time_a, time_b)
    exponent = np.where(time_a < time_b, gamma_b, gamma_a)  # that of the later one
    factor = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    product: Numbers = factor * (np.minimum(time_a, time_b) / later) ** exponent / later
    return product


@dataclass(frozen=True)
class Fit:
    """A profile as a sum of others.

    Args:
        coefficients: One for each profile; they sum up to 1.
        residual: What is left over, as a part of the norm of the profile that was wanted: 0 is exact.
        gain: The norm of the coefficients: by how much rounding errors of the snapshots grow.
    """

    coefficients: tuple[float, ...]
    residual: float
    gain: float


def fit_profile(profiles: Iterable[Profile], target: Profile) -> Fit:
    """Write a profile as a sum of others: least squares with coefficients that sum up to 1, in float64.

    Args:
        profiles: The profiles that there are; they may be alike.
        target: The profile that is wanted.
    """
    known = list(profiles)
    gram = inner_products(known, known)
    norms = np.sqrt(np.diag(gram))
    products = inner_products(known, [target])[:, 0]
    # Of profiles that lie close together the matrix is nearly singular; what float64 cannot tell apart is cut off.
    values, vectors = np.linalg.eigh(gram / norms / norms[:, None])
    kept = values > values[-1] * len(known) * np.finfo(float).eps
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T / norms / norms[:, None]
    free, ones = inverse @ products, inverse.sum(axis=1)
    found = free + ones * (1 - free.sum()) / ones.sum()
    norm = inner_products([target], [target])[0, 0]
    left = found @ gram @ found - 2 * found @ products + norm
    residual = float(np.sqrt(max(left, 0.0) / norm))
    return Fit(tuple(found.tolist()), residual, float(np.linalg.norm(found)))


# ------------------------------------------------------------------ snapshots


@dataclass(frozen=True)
class Snapshot:
    """An average as it was in mid-run.

    Args:
        file: The file with its weights.
        name: What the average is called.
        average: What is averaged, and how.
        count: How far it had come.
        averaged: The keys of the tensors that are averaged; ``None`` if that was not noted.
        run: What tells the run from others; ``None`` if that was not noted.
    """

    file: WeightFile
    name: str
    average: Average
    count: Count
    averaged: frozenset[str] | None = None
    run: str | None = None


def snapshot_path(folder: PathLike, name: str, step: int) -> Path:
    """The file of a snapshot.

    Args:
        folder: The folder for all snapshots of a run.
        name: What the average is called.
        step: The real optimiser step, counted from 1, after which it is made.

    Example:
        >>> snapshot_path("snapshots", "ema", 1000).name
        'ema-step=00001000.ckpt'
    """
    return Path(folder) / f"{name}-step={step:08d}.ckpt"


def save_snapshot(
    path: PathLike,
    state_dict: Mapping[str, Any],
    name: str,
    average: Average,
    count: Count,
    *,
    averaged: Collection[str] | None = None,
    run: str | None = None,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Write a snapshot; folders are made, and a file that is there is replaced.

    Args:
        path: Where; see :func:`snapshot_path`.
        state_dict: That of the module, with the average put in.
        name: What the average is called.
        average: What is averaged, and how.
        count: How far it has come.
        averaged: The keys of ``state_dict`` whose tensors are averaged, both of a tied one; the others are not summed
            up when an average is worked out, but taken from one snapshot. By default all floating-point tensors are.
        run: What tells the run from others, in whose folder they may lie.
        beside: What else is kept, so that a Lightning checkpoint can be made of it: ``pytorch-lightning_version``,
            ``hyper_parameters``, ``epoch``, ``global_step``.

    Raises:
        SolverError: It cannot be written.
    """
    about: dict[str, Any] = {"name": name, "average": thaw(average), "count": dataclasses.asdict(count)}
    if averaged is not None:
        about["averaged"] = list(averaged)
    if run is not None:
        about["run"] = run
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_file({**(beside or {}), "state_dict": state_dict, SNAPSHOT_KEY: about}, path, force=True)


def read_snapshot(path: PathLike) -> Snapshot:
    """Open a snapshot; its tensors lie in the file until somebody looks at them.

    Args:
        path: What :func:`save_snapshot` has written.

    Raises:
        SolverError: It cannot be read, or is no snapshot.
    """
    return _snapshot(read_weights(path))


def _snapshot(file: WeightFile) -> Snapshot:
    where = str(file.path)
    about = file.content.get(SNAPSHOT_KEY)
    if not isinstance(about, Mapping):
        do = "give files that an average with snapshots has written"
        raise SolverError(where, "is no snapshot of an average", do=do)
    count = about.get("count")
    expected = set(field_hints(Count))
    if not isinstance(count, Mapping) or set(count) != expected or not isinstance(about.get("name"), str):
        do = "use the version of lightning-solver that has written it"
        raise SolverError(f"{where}: {SNAPSHOT_KEY}", "cannot be read", got=repr(about)[:200], do=do)
    average: Average = conform(about.get("average"), Average, f"{where}: average")
    averaged = about.get("averaged")
    names = None if averaged is None else frozenset(averaged)
    return Snapshot(file, about["name"], average, Count(**count), names, about.get("run"))


# ------------------------------------------------------------------ working it out


@dataclass(frozen=True)
class Reconstruction:
    """An average that was worked out after training.

    Args:
        state_dict: The averaged weights.
        gamma: Its exponent.
        step: The real optimiser step, counted from 1, up to which it averages.
        snapshots: The snapshots.
        like: The snapshot of which are the tensors that are not averaged.
        fit: How the profile was written as a sum of those of the snapshots.
        notes: What there is to know about it.
    """

    state_dict: dict[str, Any] = field(repr=False)
    gamma: float
    step: int
    snapshots: tuple[Snapshot, ...]
    like: Snapshot
    fit: Fit
    notes: tuple[str, ...] = ()

    @property
    def sigma_rel(self) -> float:
        """Its length, as a part of the run up to ``step``."""
        return sigma_rel_of(self.gamma)

    @property
    def origin(self) -> dict[str, Any]:
        """What the saved file says of itself."""
        return {
            "kind": "post-hoc EMA",
            "sigma_rel": self.sigma_rel,
            "step": self.step,
            "residual": self.fit.residual,
            "files": [str(snapshot.file.path) for snapshot in self.snapshots],
            "shares": list(self.fit.coefficients),
        }

    def save(self, path: PathLike, *, like: PathLike | None = None, force: bool = False) -> Path:
        """Write a file like the snapshots, with this average as its weights.

        Args:
            path: Where.
            like: A checkpoint of the same model of which all else is taken.
            force: Whether a file that is there may be replaced.

        Raises:
            SolverError: There is a file already, or it cannot be written; ``like`` is of another model.
        """
        return save_average(path, self.state_dict, self.origin, like or self.like.file, force=force)


def reconstruct(
    paths: PathLike | Iterable[PathLike],
    *,
    sigma_rel: float | None = None,
    gamma: float | None = None,
    step: int | None = None,
    pattern: str = "*.ckpt",
) -> Reconstruction:
    """Work out the power-function average of any length, at any step up to the last snapshot.

    With snapshots of ``sigma_rel`` 0.05 and 0.10 at 20 or more equally distant steps, lengths from 0.03 to 0.20 come
    out with relative errors of the weights below 1e-3 (most of them far below); the residual says how good the fit is.

    Args:
        paths: Snapshots of one run, and folders of them; of one ``PowerEMA`` or several.
        sigma_rel: The length, as in ``PowerEMA``: above 0 and below 0.28.
        gamma: In place of it: the exponent, >= 0.
        step: The real optimiser step, counted from 1, up to which to average; by default that of the last snapshot.
        pattern: The glob for files in folders.

    Raises:
        SolverError: Files that cannot be read, or are not snapshots of power-function averages of one run; fewer than
            two; a length or step that is out of their reach.
    """
    wanted = PowerEMA(sigma_rel=sigma_rel, gamma=gamma).exponent  # checks them
    given = as_paths(paths)
    found = find_weights(given, pattern=pattern)
    folders = {path for path in given if path.is_dir()}
    inside = [file for file in found.files if SNAPSHOT_KEY in file.content or file.path.parent not in folders]
    snapshots = sorted(map(_snapshot, inside), key=lambda one: (one.count.steps, one.name))
    profiles = [_profile(snapshot) for snapshot in snapshots]
    _check_one_run(snapshots)
    began = snapshots[0].count.began or 0
    last = max(snapshot.count.steps for snapshot in snapshots)
    step = last if step is None else step
    if not began < step <= last:
        do = f"give a step after {began} and up to {last}"
        raise SolverError("step", "is out of the snapshots' reach", got=str(step), do=do)
    # At the step of a snapshot the average is that of its latest update, as the snapshot is; after the last one too.
    latest = next((each.count.latest for each in snapshots if each.count.steps == step), step)
    latest = min(latest, max(each.count.latest for each in snapshots))
    fit = fit_profile(profiles, Profile(wanted, latest - began + 1))
    if fit.residual > NO_FIT:
        known = ", ".join(f"{sigma:.3g}" for sigma in sorted({round(sigma_rel_of(p.gamma), 6) for p in profiles}))
        got = f"sigma_rel {sigma_rel_of(wanted):.3g} at step {step}, a fit with a residual of {fit.residual:.2f}"
        do = f"ask for a length nearer to {known} and a step nearer to a snapshot, or write snapshots more often"
        raise SolverError("sigma_rel", "is out of the snapshots' reach", got=got, do=do)
    notes = list(found.notes)
    left = len(found.files) - len(inside)
    if left:
        notes.append(f"{left} files in the folders are no snapshots, and are left out")
    if fit.residual > POOR_FIT:
        notes.append(f"the fit is poor (residual {fit.residual:.2f}), and not to be relied upon")
    like = [snapshot for snapshot in snapshots if snapshot.count.steps <= step] or snapshots[:1]
    names = snapshots[0].averaged
    weights = mix(
        [snapshot.file for snapshot in snapshots],
        fit.coefficients,
        like=like[-1].file,
        averaged=None if names is None else lambda name: name in names or own_name(name) in names,
    )
    return Reconstruction(weights, wanted, step, tuple(snapshots), like[-1], fit, tuple(notes))


def _profile(snapshot: Snapshot) -> Profile:
    where, average, count = str(snapshot.file.path), snapshot.average, snapshot.count
    if not isinstance(average, PowerEMA):
        do = "give snapshots of a PowerEMA: of other averages no other length can be worked out"
        raise SolverError(where, "is not of a power-function average", got=type(average).__name__, do=do)
    if count.began is None or not count.updates:
        raise SolverError(where, "was written before its average had begun", do="leave it out")
    return Profile(average.exponent, count.latest - count.began + 1)


def _check_one_run(snapshots: list[Snapshot]) -> None:
    if len({(each.average, each.count.latest) for each in snapshots}) < 2:
        got = ", ".join(str(each.file.path) for each in snapshots) or "none"
        raise SolverError("snapshots", "at least two that differ are needed", got=got, do="give more")
    first = snapshots[0]
    for each in snapshots[1:]:
        where = str(each.file.path)
        if each.run != first.run:
            do = "give the snapshots of one run only"
            raise SolverError(where, f"is of another run than {first.file.path}", do=do)
        if each.count.began != first.count.began:
            got = f"after step {each.count.began}, and {first.file.path} after {first.count.began}"
            do = "give averages with the same start"
            raise SolverError(where, "is of an average that began at another step", got=got, do=do)
        if each.averaged != first.averaged or each.average.buffers != first.average.buffers:
            do = "give averages with the same only, leave_out and buffers"
            raise SolverError(where, f"is of an average of other tensors than {first.file.path}", do=do)
