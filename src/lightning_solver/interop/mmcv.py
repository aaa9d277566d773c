"""MMCV 1.x (MMClassification 0.x, MMDetection 2.x, MMSegmentation 0.x, ...): ``lr_config`` and ``momentum_config``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError, nearest, suggestion
from lightning_solver.interop.base import (
    HOLD,
    Facts,
    Imported,
    Notes,
    Phases,
    Settings,
    absolute,
    batches_to_steps,
    imported_spec,
    length,
    refuse_other_peers,
    simple,
    single,
)
from lightning_solver.interop.reading import load, read_python
from lightning_solver.schedules import (
    Clip,
    Constant,
    Cosine,
    Cycle,
    Exponential,
    Inverse,
    Linear,
    MultiStep,
    Over,
    PerGroup,
    Polynomial,
    Schedule,
    Shift,
    Staircase,
    Step,
    Warmup,
)
from lightning_solver.schedules.base import Level


def from_mmcv(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the schedules of an MMCV 1.x config.

    Args:
        config: A whole config, or the mapping of ``lr_config`` alone; a mapping, the path of a .py (with its
            ``_base_``), .yaml or .json file, or Python text. Read are ``lr_config``, ``momentum_config``, ``runner``
            (``total_epochs``, ``total_iters``) and how many iterations ``optimizer_config`` accumulates.
        facts: What the config leaves open. ``epochs``, ``iters_per_epoch``, ``total_batches`` or ``total_iters`` where
            a policy rounds to whole epochs or iterations; ``runner`` where the config has none and it is not the
            ``EpochBasedRunner``; ``batches_per_step``. They win over the config.
        strict: Whether a key that is not mapped is an error, not a note.

    Returns:
        The spec and notes. In MMCV a schedule lasts as long as the run, and so it does here.

    Raises:
        SolverError: What MMCV refuses (policies and keys that it does not know, a warm-up without a length, ...), a
            config of another system, or a length that has to be known.

    Example:
        >>> from_mmcv("lr_config = dict(policy='step', step=[100, 150])").spec.schedules
        {'lr': MultiStep(at=('100ep', '150ep'), gamma=0.1, start=1.0, until=None)}
    """
    notes = Notes()
    given = Facts(facts, notes)
    data = load(config)
    data = read_python(data) if isinstance(data, str) else data
    if not isinstance(data, Mapping):
        raise SolverError("config", "must be a mapping", got=repr(data)[:120], do="give a config, or its path")
    alone = "policy" in data and "lr_config" not in data
    settings = Settings({"lr_config": data} if alone else data, "", notes)
    if not alone:
        _recognise(data)
    per_step = _per_step(settings, given)
    run = _run(settings, given, per_step, notes)
    schedules: dict[str, Phases] = {}
    for option in ("lr", "momentum"):
        inner = settings.take(f"{option}_config")
        if inner is not None:
            schedules[option] = _schedule(option, inner, "" if alone else f"{option}_config", run, given, notes)
    if run.last_is_short:
        schedules = {option: _to_last_step(phases, run, per_step) for option, phases in schedules.items()}
    schedules = batches_to_steps(schedules, per_step, notes, "optimizer_config")
    settings.rest(_KEYS.get, _KEYS)
    return notes.imported(imported_spec(schedules), strict)


_OWN = ("lr_config", "momentum_config", "optimizer_config")
_OTHERS = """
    auto_scale_lr checkpoint_config cudnn_benchmark custom_imports data data_root dataset_type device dist_params
    evaluation find_unused_parameters fp16 gpu_ids img_norm_cfg load_from log_config log_level model mp_start_method
    opencv_num_threads resume_from seed test_cfg test_pipeline train_cfg train_pipeline work_dir workflow
"""
_KEYS = {
    **dict.fromkeys((*_OWN, "optimizer", "runner", "total_epochs", "total_iters")),
    **dict.fromkeys(_OTHERS.split(), "is not part of the schedules"),
    "custom_hooks": "hooks are not part of the schedules",
    "paramwise_cfg": "parameter groups are not part of the schedules",
    "_base_": "is followed only where the config is given as the path of its file",
}
"""Keys of whole configs, with what to say of those that are not read."""


def _recognise(data: Mapping[str, Any]) -> None:
    """Refuse what is no config of this system, and hooks that move the learning rate behind its back."""
    if not any(key in data for key in _OWN):
        refuse_other_peers(data, "from_mmcv")
        if not any(key in data for key in _KEYS):
            names = [str(key) for key in data]
            do = f"rename {near[0]}" if (near := nearest("lr_config", names)) else "give lr_config"
            raise SolverError("lr_config", "is missing", got=f"keys {', '.join(names) or '(none)'}", do=do)
    hooks = data.get("custom_hooks")
    for i, hook in enumerate(hooks if isinstance(hooks, (list, tuple)) else ()):
        name = str(hook.get("type")) if isinstance(hook, Mapping) else ""
        if name.endswith(("LrUpdaterHook", "MomentumUpdaterHook")):
            do = "write it as lr_config or momentum_config"
            raise SolverError(f"custom_hooks[{i}]", "makes a schedule that is not read", got=name, do=do)


# ------------------------------------------------------------------ the run


@dataclass(frozen=True)
class _Run:
    """What is known of the run: epochs, batches (MMCV's iterations), and whether its runner counts epochs."""

    by_epochs: bool
    epochs: int | None
    batches: int | None
    last_is_short: bool
    optimizer: str | None

    def total(self, unit: str) -> int | None:
        return self.epochs if unit == "ep" else self.batches

    def whole_share(self, share: Fraction, unit: str) -> bool:
        """Whether a share of the run is surely a whole number of iterations, or of epochs."""
        known = self.total(unit)
        if known is None and unit == "st":
            known = self.epochs  # a whole number of epochs is one of iterations
        return share in (0, 1) or (known is not None and (share * known).denominator == 1)


def _per_step(settings: Settings, facts: Facts) -> Any:
    """How many batches make an optimiser step."""
    config = settings.take("optimizer_config")
    per_step = facts.get("batches_per_step")
    if config is None:
        return per_step or 1
    hook = Settings(config, "optimizer_config", settings.notes)
    kind = str(hook.take("type", "OptimizerHook"))
    said = [(key, hook.number(key)) for key in ("cumulative_iters", "update_interval") if key in hook]
    for key, value in said:
        if kind in ("OptimizerHook", "Fp16OptimizerHook"):
            do = "use type='GradientCumulativeOptimizerHook'"
            raise SolverError(hook.path(key), f"{kind} accumulates no gradients", got=repr(value), do=do)
        if not isinstance(value, int) or value < 1:
            raise SolverError(hook.path(key), "must be a whole number >= 1", got=repr(value), do="correct it")
        if per_step not in (None, value):
            got = f"{value}, and facts.batches_per_step {per_step}"
            raise SolverError(hook.path(key), "contradicts the facts", got=got, do="leave one of them out")
    hook.ignore("_delete_")
    hook.rest(lambda key: f"{key} is not part of the schedules")
    return said[-1][1] if said else per_step or 1


def _run(settings: Settings, facts: Facts, per_step: Any, notes: Notes) -> _Run:
    runner = Settings(settings.take("runner") or {}, "runner", notes)
    lengths = {"ep": (settings, "total_epochs"), "st": (settings, "total_iters")}
    lengths |= {unit: (runner, key) for unit, key in (("ep", "max_epochs"), ("st", "max_iters")) if key in runner}
    said = {unit: _whole(place, key) for unit, (place, key) in lengths.items()}
    given = [key for key in ("max_epochs", "max_iters") if runner.take(key) is not None]
    if len(given) == 2:
        raise SolverError("runner.max_iters", "is given beside max_epochs", got=str(said["st"]), do="give one of them")
    default = "IterBasedRunner" if said["st"] is not None and said["ep"] is None else "EpochBasedRunner"
    name = str(runner.take("type", default))
    name = str(facts.get("runner") or name)
    by_epochs = "Iter" not in name
    if by_epochs and "Epoch" not in name and name != "Runner":
        do = suggestion(name, ("EpochBasedRunner", "IterBasedRunner"))
        raise SolverError("runner.type", "is not known", got=name, do=do)
    if given == ["max_iters" if by_epochs else "max_epochs"]:
        do = f"give {'max_epochs' if by_epochs else 'max_iters'}"
        raise SolverError(f"runner.{given[0]}", f"is not what {name} counts", got=repr(runner.take(given[0])), do=do)
    runner.rest()

    per_epoch, steps, batches = (facts.get(key) for key in ("iters_per_epoch", "total_iters", "total_batches"))
    epochs, counted = None, said["st"]
    if by_epochs:
        epochs, known = facts.get("epochs"), batches
        if known is None and steps is not None:
            known = steps * per_step
        if epochs is None and known is not None and per_epoch and exact(known) % exact(per_epoch) == 0:
            epochs = exact(known) / exact(per_epoch)
        epochs = _agreed(said["ep"], epochs, lengths["ep"], "epochs", f"max_epochs={said['ep']}", notes)
        counted = None if epochs is None or per_epoch is None else int(epochs * per_epoch)
    if batches is None and steps is not None:
        fits = counted is not None and math.ceil(counted / exact(per_step)) == steps
        batches = counted if fits else steps * per_step
    if by_epochs:
        batches = counted if batches is None else batches
    else:
        trainer = f"max_steps={math.ceil((said['st'] or 0) / exact(per_step))}"
        batches = _agreed(said["st"], batches, lengths["st"], "iterations", trainer, notes)
    total = None if batches is None else int(batches)
    optimizer = settings.take("optimizer")
    optimizer_class = facts.get("optimizer") or (optimizer.get("type") if isinstance(optimizer, Mapping) else None)
    if optimizer is not None:
        notes.unmapped("optimizer", "the optimiser and its groups are not part of the schedules")
    short = (total or 0) % exact(per_step) != 0
    return _Run(by_epochs, None if epochs is None else int(epochs), total, short, optimizer_class)


def _whole(settings: Settings, key: str) -> int | None:
    value = settings.number(key)
    if value is not None and (value != int(value) or value < 1):
        raise SolverError(settings.path(key), "must be a whole number >= 1", got=repr(value), do="correct it")
    return None if value is None else int(value)


def _agreed(said: int | None, fact: Any, place: tuple[Settings, str], what: str, trainer: str, notes: Notes) -> Any:
    """The length that the facts give, or else the config."""
    path = place[0].path(place[1])
    if said is not None and fact in (None, said):
        notes.say(path, f"the schedules last as long as the run, which has {said} {what}: Trainer({trainer})")
    elif said is not None:
        notes.say(path, f"the facts say {fact} {what}, and the schedules last as long as the run, as in MMCV")
    return said if fact is None else fact


def _to_last_step(phases: Phases, run: _Run, per_step: int) -> Phases:
    """For a run whose last optimiser step has fewer batches: it is made by the value of the last batch."""
    assert run.batches is not None
    if run.batches == 1:
        return Staircase(Over(single(phases), end=1), every=per_step)
    return (Over(single(phases), end=run.batches, until=run.batches - 1), HOLD)


# ------------------------------------------------------------------ a policy and its warm-up


@dataclass(frozen=True)
class _Policy:
    """An ``lr_config`` or ``momentum_config`` as it is read."""

    option: str
    data: Settings
    unit: str
    run: _Run
    facts: Facts
    notes: Notes

    @property
    def total(self) -> int | None:
        return self.run.total(self.unit)

    def stairs(self, phases: Phases) -> Phases:
        """What moves with every epoch, or with every iteration."""
        return Staircase(phases) if self.unit == "ep" else phases

    def until(self, share: Fraction, minus: Fraction | int = 0) -> int | str:
        """The point of the run after a share of it, less some epochs or iterations."""
        if self.run.last_is_short:  # the run that is counted in steps is longer than this one
            name = "epochs" if self.unit == "ep" else "total_batches"
            total = self.total or self.facts.need(name, self.data.where or "lr_config", "names a share of the run")
            return length(share * total - minus, self.unit)
        terms = [min(share, Fraction(1))] + ([share - 1] if share > 1 else [])
        text = "+".join(str(length(term * 100, "%")) for term in terms)
        if minus == 0:
            return text
        number = str(length(abs(minus), self.unit))
        number += "" if number.endswith(self.unit) else self.unit
        return f"{text}{'-' if minus > 0 else '+'}{number}"

    def floor(self) -> Level:
        """``min_lr``, the same for every group, or ``min_lr_ratio``, a share of its own."""
        keys = f"min_{self.option}", f"min_{self.option}_ratio"
        values = [self.data.number(key, low=0) for key in keys]
        if (values[0] is None) == (values[1] is None):
            what = f"one of {keys[0]} and {keys[1]} must be given"
            raise SolverError(self.data.path(keys[0]), what, got=f"{values[0]} and {values[1]}", do="give one of them")
        return absolute(values[0]) if values[0] is not None else float(values[1])

    def error(self, key: str, what: str, got: Any, do: str = "correct it") -> SolverError:
        return SolverError(self.data.path(key), what, got=repr(got), do=do)


_COMMON = ("policy", "type", "_delete_", "by_epoch", "warmup", "warmup_iters", "warmup_ratio")


def _schedule(option: str, config: Any, where: str, run: _Run, facts: Facts, notes: Notes) -> Phases:
    data = Settings(config, where, notes)
    policies = _LR_POLICIES if option == "lr" else _MOMENTUM_POLICIES
    name = data.needed("policy")
    if not isinstance(name, str):
        raise SolverError(data.path("policy"), "must be a name", got=repr(name), do="give such as 'step'")
    name = name.title() if name == name.lower() else name  # as MMCV completes it
    if name not in policies:
        do = suggestion(name, policies, "policies")
        raise SolverError(data.path("policy"), f"is not a policy of MMCV for the {option}", got=repr(name), do=do)
    read, keys = policies[name]
    own = (*_COMMON, *keys, *(("warmup_by_epoch",) if option == "lr" else ()))
    for key in map(str, config):
        if key not in own:
            data.ignore(key)
            notes.unknown(data.path(key), key, f"{name} in MMCV", own)
    whole_cycle = name in ("Cyclic", "OneCycle")
    by_epoch = data.flag("by_epoch", not whole_cycle and (run.by_epochs or option == "momentum"))
    if by_epoch and whole_cycle:
        raise SolverError(data.path("by_epoch"), f"{name} moves with every iteration", got="True", do="leave it out")
    stays = by_epoch and not run.by_epochs
    run = replace(run, last_is_short=False) if stays else run
    policy = _Policy(option, data, "ep" if by_epoch else "st", run, facts, notes)
    curve = read(policy)
    warmed = _warmed(curve, policy)
    if stays:
        notes.say(data.path("by_epoch"), f"an IterBasedRunner never gets to it: the {option} stays as it is")
        return Constant()
    return warmed


def _warmed(curve: Phases, policy: _Policy) -> Phases:
    """The curve multiplied by the warm-up; the momentum is divided by it."""
    data, inverse = policy.data, policy.option == "momentum"
    kind, count = data.take("warmup"), data.number("warmup_iters", 0)
    ratio = data.number("warmup_ratio", 0.9 if inverse else 0.1)
    by_epoch = not inverse and data.flag("warmup_by_epoch", False)
    if by_epoch and not policy.run.by_epochs:
        what = "an IterBasedRunner does not know how long an epoch is"
        raise SolverError(data.path("warmup_by_epoch"), what, got="True", do="give warmup_iters in iterations")
    if count != int(count) or not (inverse or isinstance(count, int)):
        raise policy.error("warmup_iters", "must be a whole number", count)
    if kind is None:
        for key in ("warmup_iters", "warmup_ratio"):
            if key in data:
                policy.notes.say(data.path(key), "does nothing, as there is no warmup")
        return curve
    kind = data.choice("warmup", ("constant", "linear", "exp"))
    if count <= 0:
        raise policy.error("warmup_iters", "must be > 0, as there is a warmup", count, "give it, or leave warmup out")
    if not 0 < ratio <= 1:
        raise policy.error("warmup_ratio", "must be above 0 and at most 1", ratio)
    if ratio == 1:
        policy.notes.say(data.path("warmup_ratio"), "a warm-up by the factor 1 is left out")
        return curve
    until = length(count, "ep" if by_epoch else "st")
    ramp: Schedule
    if inverse:
        what = f"MMCV divides the momentum by its warm-up: it begins at 1/{ratio:g} of its value"
        policy.notes.say(data.path("warmup"), what)
    start = float(1 / exact(ratio) if inverse else ratio)
    if kind == "constant":
        ramp = Constant(start, until=until)
    elif kind == "exp":
        ramp = Exponential(start=start, end=1.0, until=until)
    elif inverse:  # 1 / (r + (1 - r) t / W)
        ramp = Inverse(every=length(exact(count) * exact(ratio) / (1 - exact(ratio))), start=start, until=until)
    else:
        ramp = Linear(start=start, until=until)
    return Warmup(ramp=ramp, of=curve, meets="multiply")


# ------------------------------------------------------------------ the policies


def _step(policy: _Policy) -> Phases:
    """``gamma`` to the number of steps done, not below ``min_lr``."""
    data, unit, step = policy.data, policy.unit, policy.data.needed("step")
    gamma = float(data.number("gamma", 0.1 if policy.option == "lr" else 0.5, low=0))
    least = data.number(f"min_{policy.option}", low=0)
    for s in step if isinstance(step, list) else [step]:
        if isinstance(s, bool) or not isinstance(s, int) or s < 1:
            raise policy.error("step", "must be a whole number >= 1, or a list of them", step)
    curve: Phases
    if isinstance(step, list):
        reached = [max(step[: i + 1]) for i in range(len(step))]
        if reached != step:
            policy.notes.say(data.path("step"), "is not sorted: MMCV takes a step once all before it are passed, too")
        curve = drops(reached, gamma, unit)
    elif gamma > 0:
        curve = Step(every=length(step, unit), gamma=gamma)
    else:
        curve = drops([step], gamma, unit)
    if not least:
        return curve
    what = "is the same for all groups, and raises those that begin below it"
    policy.notes.say(data.path(f"min_{policy.option}"), what)
    return Clip(curve, min=absolute(least))


def drops(points: Sequence[int | float], gamma: float, unit: str) -> Phases:
    """A drop by ``gamma`` at each of some points in order; a point may come twice, or be 0.

    Example:
        >>> drops([5, 8], 0.5, "ep")
        MultiStep(at=('5ep', '8ep'), gamma=0.5, start=1.0, until=None)
        >>> drops([5, 5], 0.5, "st")
        (Constant(value=1.0, until=5), Constant(value=0.25, until=None))
    """
    if not points:
        return Constant()
    later = sorted({point for point in points if point > 0})[: None if gamma > 0 else 1]
    if gamma > 0 and len(later) == len(points):
        return MultiStep([length(point, unit) for point in later], gamma=gamma)
    values = [gamma ** sum(point < end for point in points) for end in [*later, math.inf]]
    ends = [*(length(point, unit) for point in later), None]
    return simple([Constant(value, until=end) for value, end in zip(values, ends)])


def _exp(policy: _Policy) -> Phases:
    gamma = float(_required(policy, "gamma", low=0))
    if gamma == 0:
        return drops([1], 0.0, policy.unit)
    return Step(every="1ep", gamma=gamma) if policy.unit == "ep" else Exponential(gamma=gamma, every=1)


def _poly(policy: _Policy) -> Phases:
    power = float(policy.data.number("power", 1.0, low=0))
    end = absolute(policy.data.number("min_lr", 0.0, low=0))
    if power == 0:
        return Constant()
    return policy.stairs(Linear(end=end) if power == 1 else Polynomial(power=power, end=end))


def _inv(policy: _Policy) -> Phases:
    gamma, power = _required(policy, "gamma", low=0), float(policy.data.number("power", 1.0, low=0))
    if gamma == 0 or power == 0:
        return Constant()
    return policy.stairs(Inverse(every=length(1 / exact(gamma), policy.unit), power=power))


def _required(policy: _Policy, key: str, low: float) -> Any:
    policy.data.needed(key)
    return policy.data.number(key, low=low)


def _cosine(policy: _Policy) -> Phases:
    return policy.stairs(Cosine(end=policy.floor()))


def _linear(policy: _Policy) -> Phases:
    return policy.stairs(Linear(end=policy.floor()))


def _cooldown(policy: _Policy) -> Phases:
    """MMClassification's: the cosine is done ``cool_down_time`` early; from the one after that on it is lower still."""
    end, time = policy.floor(), exact(policy.data.number("cool_down_time", 10))
    ratio = float(policy.data.number("cool_down_ratio", 0.1, low=0))
    low = _times(end, ratio)
    total = policy.total
    if total is not None and time == total:
        do = "make it shorter than the run"
        raise policy.error("cool_down_time", "leaves no time for the cosine", float(time), do)
    if total is not None and time > total:
        return Constant(low)
    if time <= 0:
        curve: Schedule = Cosine(end=end)
        return policy.stairs(Over(curve, end=policy.until(Fraction(1), time)) if time else curve)
    phases: list[Schedule] = [Cosine(end=end, until=policy.until(Fraction(1), time))]
    if time.denominator == 1:
        phases.append(Constant("previous", until=policy.until(Fraction(1), time - 1) if time > 1 else None))
    if time != 1:
        phases.append(Constant(low))
    return policy.stairs(phases)


def _times(level: Level, factor: float) -> Level:
    assert not isinstance(level, str)
    if isinstance(level, dict):
        return {kind: _product(value, factor) for kind, value in level.items()}
    return _product(level, factor)


def _product(*factors: float | Fraction) -> float:
    """What a human gets: 1e-5 times 0.1 is 1e-6."""
    return float(math.prod(map(exact, factors)))


def _flat_cosine(policy: _Policy) -> Phases:
    share = policy.data.take("start_percent", 0.75)
    if not isinstance(share, float) or not 0 <= share <= 1:
        raise policy.error("start_percent", "must be a float from 0.0 to 1.0", share)
    part, cosine, until = exact(share), Cosine(end=policy.floor()), None
    if policy.run.whole_share(part, policy.unit):
        until = policy.until(part) if 0 < part < 1 else None
    elif policy.total is None and (policy.unit == "st" or not policy.run.by_epochs):
        _note_rounding(policy, "start_percent")
        until = policy.until(part)
    else:
        path = policy.data.path("start_percent")
        total = policy.total or int(policy.facts.need("epochs", path, "is rounded to whole epochs"))
        start = round(total * share)
        part, until = Fraction(start, total), length(start, policy.unit)
        policy.notes.say(path, f"MMCV rounds it: the cosine begins after {start} of {total}")
    if part == 1:
        return Constant()
    return policy.stairs(cosine if part == 0 else (Constant(until=until), cosine))


def _note_rounding(policy: _Policy, key: str) -> None:
    what = "MMCV rounds this point of the run to a whole iteration; give facts total_iters to have it rounded here"
    policy.notes.say(policy.data.path(key), what)


def _restart(policy: _Policy) -> Phases:
    """Cosines one after another; each begins at its weight of the base value, plus what is left of the minimum."""
    data, end = policy.data, policy.floor()
    periods, weights = _numbers(policy, "periods", None), _numbers(policy, "restart_weights", [1])
    if len(periods) != len(weights) or not periods:
        do = "give one weight for each period"
        raise policy.error("restart_weights", "must be as long as periods", weights, do)
    pairs = [(exact(p), w) for p, w in zip(periods, weights) if p > 0]
    whole, total = sum((period for period, _ in pairs), Fraction(0)), policy.total
    if total is not None and whole < total:
        got = f"{periods}, together {float(whole):g} of {total}"
        do = "add periods up to the end of the run"
        raise SolverError(data.path("periods"), "end before the run, where MMCV stops with an error", got=got, do=do)
    least = end["absolute"] if isinstance(end, dict) else end
    assert isinstance(least, (int, float))
    if total is None:
        most = f"{float(whole):g} {'epochs' if policy.unit == 'ep' else 'iterations'}"
        policy.notes.say(data.path("periods"), f"are made for at most {most}; MMCV fails after that")
    if len(pairs) > 1 and len({p for p, _ in pairs}) == 1 and all(w == 1 for _, w in pairs):
        times = len(pairs) if total is None else None
        return policy.stairs(Cycle(Cosine(end=end), every=length(pairs[0][0], policy.unit), times=times))
    phases: list[Schedule] = []
    passed = Fraction(0)
    for period, weight in pairs:
        passed += period
        start: Level = float(weight)
        if weight != 1 and isinstance(end, dict):
            start = {"base": float(weight), "absolute": _product(1 - exact(weight), least)}
        elif weight != 1:
            start = float(exact(weight) + (1 - exact(weight)) * exact(least))
        phases.append(Cosine(start, end, until=None if passed == whole == total else length(passed, policy.unit)))
    return policy.stairs(simple(phases if total is not None else [*phases, HOLD]))


def _numbers(policy: _Policy, key: str, default: list[float] | None) -> list[float]:
    values = policy.data.needed(key) if default is None else policy.data.take(key, default)
    if not isinstance(values, (list, tuple)) or not all(_is_number(value) and value >= 0 for value in values):
        raise policy.error(key, "must be a list of numbers >= 0", values)
    return list(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cyclic(policy: _Policy) -> Phases:
    """From 1 to the first ratio and on to the second, once in each of ``cyclic_times`` parts of the run."""
    data = policy.data
    top, end = _target_ratio(policy)
    times = data.number("cyclic_times", 1)
    up_share = data.number("step_ratio_up", 0.4, low=0)
    gamma = float(data.number("gamma", 1.0))
    shape = {"cos": Cosine, "linear": Linear}[data.choice("anneal_strategy", ("cos", "linear"), "cos")]
    if times < 1 or times != int(times):
        raise policy.error("cyclic_times", "must be a whole number >= 1", times)
    if up_share >= 1:
        raise policy.error("step_ratio_up", "must be below 1", up_share)
    if gamma < 0 or (policy.option == "lr" and not 0 < gamma <= 1):
        raise policy.error("gamma", "must be above 0 and at most 1", gamma)
    times, peak_at, total, cycle = int(times), exact(up_share), policy.total, None
    even = neat = True  # whether the cycles fill the run, and whether their peaks lie where step_ratio_up says
    if total is None and not policy.run.whole_share(Fraction(1, times), "st"):
        total = int(policy.facts.need("total_iters", data.path("cyclic_times"), "divides the number of iterations"))
    if total is not None:
        cycle, left = divmod(total, times)
        if cycle == 0:
            raise policy.error("cyclic_times", f"is more than the run's {total} iterations", times)
        up = int(up_share * cycle)
        even, neat, peak_at = left == 0, peak_at * cycle == up, Fraction(up, cycle)
        if left:
            what = f"does not divide {total} iterations: those left over begin another cycle"
            policy.notes.say(data.path("cyclic_times"), what)
    elif peak_at:
        _note_rounding(policy, "step_ratio_up")

    def phases(scale: float, peak: int | str | None, stop: int | str | None) -> list[Schedule]:
        ratio = 1.0 - scale + top * scale
        if min(ratio, 1.0 - scale + end * scale) < 0:
            raise policy.error("gamma", "makes the value negative in a later cycle", gamma)
        if peak_at == 0:  # what MMCV makes of a cycle that does not rise
            return [shape(start=top, end=1.0 - scale + end * scale, until=stop)]
        return [shape(end=ratio, until=peak), shape(start=ratio, end=end, until=stop)]

    if gamma == 1 and times > 1:
        peak = length(peak_at * 100, "%") if neat or cycle is None else length(peak_at * cycle)
        whole = even and not policy.run.last_is_short
        every = length(Fraction(100, times), "%") if whole else length(cycle)
        return Cycle(simple(phases(1.0, peak, None)), every=every)

    def point(place: Fraction) -> int | str | None:
        """The point of the run after so many cycles."""
        if even and place == times:
            return None
        if cycle is None or (even and (neat or place.denominator == 1)):
            return policy.until(place / times)
        return length(place * cycle)

    count = times if total is None or cycle is None else math.ceil(total / cycle)
    cycles = [phases(gamma**i, point(i + peak_at), point(Fraction(i + 1))) for i in range(count)]
    return simple([phase for both in cycles for phase in both])


def _target_ratio(policy: _Policy) -> tuple[float, float]:
    ratio = policy.data.take("target_ratio", (10, 1e-4) if policy.option == "lr" else (0.85 / 0.95, 1.0))
    values = [ratio] if isinstance(ratio, float) else ratio
    if isinstance(ratio, list):
        policy.notes.say(policy.data.path("target_ratio"), "is read as a tuple; MMCV takes no list")
    if not isinstance(values, (list, tuple)) or len(values) not in (1, 2) or not all(map(_is_number, values)):
        what = "must be a float, or a tuple of one or two numbers"
        raise policy.error("target_ratio", what, ratio, "write 10.0, or (10, 1e-4)")
    if min(values) < 0:
        raise policy.error("target_ratio", "must not be negative", ratio)
    return float(values[0]), float(values[1] if len(values) == 2 else values[0] / 1e5)


# ------------------------------------------------------------------ one cycle


def _one_cycle_lr(policy: _Policy) -> Phases:
    data = policy.data
    total = data.take("total_steps")
    if total is not None and (isinstance(total, bool) or not isinstance(total, int) or total < 1):
        raise policy.error("total_steps", "must be a whole number >= 1", total)
    if total is not None and policy.total is not None and total < policy.total:
        do = f"give at least {policy.total}, or leave it out"
        raise policy.error("total_steps", f"is less than the run's {policy.total} iterations", total, do)
    divisor, last = (data.number(key, default) for key, default in (("div_factor", 25), ("final_div_factor", 1e4)))
    if min(divisor, last) <= 0:
        raise policy.error("div_factor", "factors must be > 0", (divisor, last))
    data.needed("max_lr")
    peaks = _of_groups(policy, "max_lr", (int, float))
    policy.notes.say(data.path("max_lr"), "sets the learning rate of every group, whatever the optimiser's own is")
    first, least = 1 / exact(divisor), 1 / exact(divisor) / exact(last)
    return _one_cycle(policy, [(_product(peak, first), peak, _product(peak, least)) for peak in peaks], total)


def _one_cycle_momentum(policy: _Policy) -> Phases:
    lows = _of_groups(policy, "base_momentum", (float,), 0.85)
    highs = _of_groups(policy, "max_momentum", (float,), 0.95)
    count = max(len(lows), len(highs))
    lows, highs = (values * count if len(values) == 1 else values for values in (lows, highs))
    if len(lows) != len(highs):
        got = (len(lows), len(highs))
        raise policy.error("base_momentum", "must have as many values as max_momentum", got)
    return _one_cycle(policy, [(high, low, high) for low, high in zip(lows, highs)], None)


def _of_groups(policy: _Policy, key: str, numbers: tuple[type, ...], default: float | None = None) -> list[float]:
    """One value for all groups, or a list with one for each; a mapping has such lists by the optimiser's name."""
    value = policy.data.take(key, default)
    if isinstance(value, Mapping):
        why = "has values by the optimiser's class"
        name = policy.run.optimizer or policy.facts.need("optimizer", policy.data.path(key), why)
        if name not in value:
            raise policy.error(key, f"has no values for {name}", dict(value), suggestion(str(name), value))
        value = value[name]
        numbers = ()
    many = isinstance(value, list)
    good = value and all(map(_is_number, value)) if many else _is_number(value) and isinstance(value, numbers)
    if not good:
        raise policy.error(key, "must be a number, or a list of one for each group", value)
    groups = policy.facts.get("base_lr")
    if many and isinstance(groups, (list, tuple)) and len(groups) != len(value):
        raise policy.error(key, f"has not one value for each of {len(groups)} groups", value)
    values = [float(item) for item in (value if many else [value])]
    if min(values) < 0:
        raise policy.error(key, "must not be negative", value)
    return values


def _one_cycle(policy: _Policy, values: list[tuple[float, float, float]], steps: int | None) -> Phases:
    """From the first value to the second and on to the third; with three phases back to the first in between."""
    data = policy.data
    share = data.take("pct_start", 0.3)
    if not isinstance(share, float) or not 0 <= share <= 1:
        raise policy.error("pct_start", "must be a float from 0.0 to 1.0", share)
    part = exact(share)
    shape = {"cos": Cosine, "linear": Linear}[data.choice("anneal_strategy", ("cos", "linear"), "cos")]
    three = data.flag("three_phase", False)
    total = policy.total if steps is None else steps
    explicit = steps is not None and steps != policy.total
    size = total or 10**9  # a long run, where its length does not matter
    # Where each phase ends: this share of all iterations less so many, and the index of its value.
    ends = [(part, 1, 1), (2 * part, 2, 0), (Fraction(1), 1, 2)] if three else [(part, 1, 1), (Fraction(1), 1, 2)]
    begin, at = (Fraction(0), Fraction(0)), 0
    if part * size == 1:
        raise policy.error("pct_start", "leaves the first phase no iteration, and MMCV stops with an error", share)
    while ends[0][0] * size - ends[0][1] < 0:  # a phase that is over before the run
        begin, at = (ends[0][0], Fraction(ends[0][1])), ends[0][2]
        ends = ends[1:]
    explicit = explicit or begin[0] > 0
    used = [i for i, (f, minus, _) in enumerate(ends) if f * size - minus >= size - 1]
    ends = ends[: used[0] + 1]

    def until(f: Fraction, minus: Fraction) -> int | str | None:
        point = f * size - minus
        if point == size and steps is None:
            return None
        return length(point) if explicit else policy.until(f, minus)

    def phases(knots: tuple[float, float, float]) -> list[Schedule]:
        result: list[Schedule] = []
        start = at
        for f, minus, end in ends:
            if f == 1 and knots[start] == knots[end]:
                return [*result, Constant(absolute(knots[end]))]
            point = until(f - begin[0], minus - begin[1])
            result.append(shape(start=absolute(knots[start]), end=absolute(knots[end]), until=point))
            start = end
        return result if result[-1].until is None else [*result, HOLD]

    groups = [simple(phases(knots)) for knots in values]
    curve: Phases = groups[0] if all(group == groups[0] for group in groups) else PerGroup(groups)
    earlier = begin[1] - begin[0] * size
    return Shift(curve, earlier=length(earlier)) if earlier > 0 else curve


_Read = Callable[[_Policy], Phases]
_CYCLIC = ("target_ratio", "cyclic_times", "step_ratio_up", "anneal_strategy", "gamma")
_ONE_CYCLE = ("pct_start", "anneal_strategy", "three_phase")
_FLOOR = ("min_lr", "min_lr_ratio")
_LR_POLICIES: dict[str, tuple[_Read, tuple[str, ...]]] = {
    "Fixed": (lambda _: Constant(), ()),
    "Step": (_step, ("step", "gamma", "min_lr")),
    "Exp": (_exp, ("gamma",)),
    "Poly": (_poly, ("power", "min_lr")),
    "Inv": (_inv, ("gamma", "power")),
    "CosineAnnealing": (_cosine, _FLOOR),
    "CosineAnnealingCooldown": (_cooldown, (*_FLOOR, "cool_down_ratio", "cool_down_time")),
    "FlatCosineAnnealing": (_flat_cosine, (*_FLOOR, "start_percent")),
    "CosineRestart": (_restart, (*_FLOOR, "periods", "restart_weights")),
    "Cyclic": (_cyclic, _CYCLIC),
    "OneCycle": (_one_cycle_lr, (*_ONE_CYCLE, "max_lr", "total_steps", "div_factor", "final_div_factor")),
    "LinearAnnealing": (_linear, _FLOOR),
}
_FLOOR_MOMENTUM = ("min_momentum", "min_momentum_ratio")
_MOMENTUM_POLICIES: dict[str, tuple[_Read, tuple[str, ...]]] = {
    "Step": (_step, ("step", "gamma", "min_momentum")),
    "CosineAnnealing": (_cosine, _FLOOR_MOMENTUM),
    "LinearAnnealing": (_linear, _FLOOR_MOMENTUM),
    "Cyclic": (_cyclic, _CYCLIC),
    "OneCycle": (_one_cycle_momentum, (*_ONE_CYCLE, "base_momentum", "max_momentum")),
}
