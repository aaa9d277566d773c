"""LightningCLI that knows the solver block, shows the plan and says clearly what is wrong."""

from __future__ import annotations

import re
import sys
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from inspect import signature
from pathlib import Path
from types import MethodType
from typing import Any, NoReturn, Optional, TypeVar, Union

from jsonargparse import Namespace, class_from_function, get_loader  # type: ignore[attr-defined]
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from yaml import YAMLError

from lightning_solver.callbacks.follow_metrics import FollowMetrics
from lightning_solver.callbacks.freezing import Freezing
from lightning_solver.callbacks.optimizer_mode import OptimizerMode
from lightning_solver.callbacks.order import describe
from lightning_solver.callbacks.solver_accumulation import SolverAccumulation
from lightning_solver.callbacks.solver_averages import SolverAverages
from lightning_solver.callbacks.solver_clipping import SolverClipping
from lightning_solver.drawing import draw
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.files import blocks
from lightning_solver.happened import Happened, happened, read_log
from lightning_solver.mixin import SolverMixin
from lightning_solver.optimizers.modes import has_modes
from lightning_solver.plain import field_hints, import_dotted
from lightning_solver.plan import Plan
from lightning_solver.several import ALONE, read_solver
from lightning_solver.spec import SolverSpec
from lightning_solver.table import roles_at_work

_Read = TypeVar("_Read")
_TRAINING = ("fit", "plan")


class SolverParser(LightningArgumentParser):
    """A parser whose errors say where, what and what to do, without a page of usage."""

    cli: SolverCLI | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one clear error and exit with status 2."""
        text = message if self.cli is None else self.cli.explain(message)
        if not getattr(self, "exit_on_error", True):
            super().error(text, ex)
        sys.stderr.write(f"error: {text}\n")
        sys.exit(2)


class SolverCLI(LightningCLI):
    """A ``LightningCLI`` for modules with :class:`SolverMixin`.

    The block is the module's own argument ``solver``, or a top-level key ``solver:`` for any module with the mixin;
    several blocks by the names of submodules, for several optimisers, are an argument annotated as
    ``dict[str, SolverSpec]``, or the same key. The subcommand ``plan`` prints and draws what ``fit`` would do, from the
    same YAML and the same code, without training. When ``fit --ckpt_path`` resumes, the solver of the command line and
    YAML is followed, not the checkpoint's.

    Takes the arguments of ``LightningCLI``; ``auto_configure_optimizers`` is always off and ``parser_class``, if given,
    derives from :class:`SolverParser`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.pop("auto_configure_optimizers", False):
            do = "leave it out: the solver block says everything about the optimiser"
            raise SolverError("SolverCLI", "does not take auto_configure_optimizers", got="True", do=do)
        kwargs["auto_configure_optimizers"] = False
        kwargs.setdefault("parser_class", SolverParser)
        self._given: list[str] = []
        self._solvers: dict[str, Any] = {}
        try:
            super().__init__(*args, **kwargs)
        except SolverError as error:
            sys.stderr.write(f"error: {self._with_path(error)}\n")
            raise SystemExit(2) from error

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """``fit``, ``validate``, ``test``, ``predict`` and ``plan``."""
        return {**LightningCLI.subcommands(), "plan": {"model", "train_dataloaders", "datamodule"}}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that asks this object to explain its errors."""
        parser = super().init_parser(**kwargs)
        if isinstance(parser, SolverParser):
            parser.cli = self
        return parser

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """The parsers, with ``plan`` among the Trainer's methods."""
        given = self.trainer_class
        base = given if isinstance(given, type) else class_from_function(given)
        self.trainer_class = type(base.__name__, (base,), {"plan": plan, "__doc__": base.__doc__})
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        self.trainer_class = given

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Lightning's, and the top-level key ``solver``."""
        super().add_default_arguments_to_parser(parser)
        kinds = Optional[Union[dict[str, SolverSpec], SolverSpec]]
        parser.add_argument("--solver", type=kinds, default=None, help="How the model is trained.")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, then check the solver block with its path at hand."""
        self._given = [str(arg) for arg in args] if isinstance(args, list) else sys.argv[1:] if args is None else []
        try:
            super().parse_arguments(parser, args)
        except (ValueError, TypeError, YAMLError) as error:  # jsonargparse lets some through
            parser.error(str(error))
        self._solvers = {key: deepcopy(block) for key, block in blocks(self._section())}
        for key, block in self._solvers.items():
            if not isinstance(block, SolverSpec):
                try:
                    read_solver(_as_plain(block), key)
                except SolverError as error:
                    parser.error(str(error))

    def before_instantiate_classes(self) -> None:
        """What the user says now wins over what a checkpoint remembers of the solver."""
        if self.config.get("subcommand") in _TRAINING:
            for key, block in self._solvers.items():
                self._section()[key] = block

    def after_instantiate_classes(self) -> None:
        """Hand a top-level ``solver:`` to the module."""
        spec = self._get(self.config_init, "solver")
        if spec is not None:
            if not isinstance(self.model, SolverMixin):
                do = f"derive it: class {type(self.model).__name__}(SolverMixin, ...)"
                raise SolverError("solver", f"{type(self.model).__name__} has no SolverMixin to follow it", do=do)
            if "model.solver" in self._solvers or "model.init_args.solver" in self._solvers:
                raise SolverError("solver", "is given twice, here and as the model's argument", do="give it once")
            self.model.solver = spec
        if self.subcommand in _TRAINING and isinstance(self.model, SolverMixin):
            own = type(self.model).configure_optimizers is not SolverMixin.configure_optimizers
            if self.model.solver is None and not own:
                do = "give solver: in the YAML, as the model's argument or at the top"
                raise SolverError("solver", "is not given, so that nothing says how to train", do=do)
        if self.subcommand == "plan":
            self.trainer.plan = MethodType(plan, self.trainer)  # type: ignore[attr-defined]

    def instantiate_classes(self) -> None:
        """As Lightning's; what a callback of ours refuses is told without what the parser has tried besides."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            own = _within(error)
            if own is None or own is error:
                raise
            raise own from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer; one that only plans keeps no logs and prints nothing but the plan."""
        if self.subcommand == "plan":
            kwargs["logger"] = False
            self.save_config_callback = None
            given = self._get(self.config_init, "trainer").get("callbacks") or []
            given = given if isinstance(given, list) else [given]
            if not any(isinstance(callback, ModelSummary) for callback in given):
                kwargs["enable_model_summary"] = False
        return super().instantiate_trainer(**kwargs)

    def explain(self, message: str) -> str:
        """A parser's message as that of a :class:`SolverError`, where it is about something that can be looked up."""
        given = list(_overrides(self._given))
        named = [(key, path, value) for key, path, value in given if _names_a_part(path)]
        shallow = [(key, {path[0]: {path[1]: value}}) for key, path, value in named if len(path) == 2]
        several = ""
        wrong = None if named else _mistake_in_override(message)
        if wrong is not None:
            return str(wrong)
        for key, block in (*shallow, *self._blocks_in_files()):
            try:
                several = several if isinstance(read_solver(block, key), SolverSpec) else key
            except SolverError as error:
                return str(error)
        wrong = None if named else self._mistake_of_all([one for one in given if f'"{one[0]}"' in message])
        if wrong is not None:
            return str(wrong)
        for key, path, value in named:
            if len(path) > 2 and f'"{key}"' in message:
                what = "lies too deep to be given for one of several optimisers on the command line"
                do = f"give {key}.{path[0]}.{path[1]} as a whole, or write it in the YAML"
                return str(SolverError(".".join([key, *path]), what, got=repr(value), do=do))
        if several not in ("", ALONE) and not named and f'"{several}"' in message and "dict[str, " not in message:
            what = "names several optimisers, but the module's argument takes one solver"
            do = "annotate it as solver: dict[str, SolverSpec], or write the block as the top-level key solver:"
            return str(SolverError(several, what, do=do))
        wrong = _mistake_in_class(message)
        if wrong is not None:
            return str(wrong)
        found = re.search(
            r"[Oo]ption '([\w.]+)' is not accepted|does not accept (?:option|nested key) '([\w.]+)'", message
        )
        if found is None:
            return message
        name = found[1] or found[2]
        parts = name.split(".")
        options = [option.split(".") for option in self._known_options()]
        for depth in range(1, len(parts) + 1):
            head, parent = ".".join(parts[:depth]), parts[: depth - 1]
            known = dict.fromkeys(".".join(o[:depth]) for o in options if o[: depth - 1] == parent and len(o) >= depth)
            if head not in known:
                return str(SolverError(head, "unknown key", do=suggestion(head, known, "keys")))
        return message

    # ------------------------------------------------------------------ not for users

    def _with_path(self, error: SolverError) -> SolverError:
        """An error of the plan with the path of the block in front."""
        head = re.split(r"[.\[]", error.where)[0]
        key, block = next(iter(self._solvers.items()), ("solver", None))
        known = [*field_hints(SolverSpec), *(block if isinstance(block, Mapping) else ())]
        return error.moved(head, f"{key}.{head}") if head in known else error

    def _mistake_of_all(self, given: Sequence[tuple[str, list[str], Any]]) -> SolverError | None:
        """What is wrong with the blocks of the files, once arguments have changed them."""
        changed: dict[str, Any] = {}
        replaced: dict[str, Any] = {}
        for key, path, value in given:
            if key not in changed:
                changed[key] = {}
                for found, block in self._blocks_in_files():
                    if found.replace(".init_args.", ".") == key.replace(".init_args.", "."):
                        changed[key] = _merged(changed[key], block)
            inner, block = changed[key], value
            for depth, name in enumerate(path[:-1], 1):
                inner = inner.get(name)
                if not isinstance(inner, Mapping):
                    replaced[".".join([key, *path[:depth]])] = inner
                    break
            for name in reversed(path):
                block = {name: block}
            changed[key] = _merged(changed[key], block)
        for key, block in changed.items():
            try:
                read_solver(block, key)
            except SolverError as error:
                before = replaced.get(error.where)
                if before is None:
                    return error
                what = f"{error.what}, as this mapping takes the place of {before!r}"
                return SolverError(error.where, what, got=error.got, do=error.do)
        return None

    def _section(self) -> Namespace:
        """The part of the configuration that belongs to the chosen subcommand."""
        name = self.config.get("subcommand")
        section: Namespace = self.config[name] if name else self.config
        return section

    def _known_options(self) -> list[str]:
        parsers = getattr(self, "_subcommand_parsers", {})
        chosen = [parsers[arg] for arg in self._given if arg in parsers] or list(parsers.values())
        return [a.dest for parser in chosen for a in parser._actions if not a.dest.endswith("help")]

    def _blocks_in_files(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The solver blocks of the configuration files that were given."""
        load = get_loader("yaml")
        for i, arg in enumerate(self._given):
            name, _, value = arg.partition("=")
            path = value or (self._given[i + 1] if i + 1 < len(self._given) else "")
            if name not in ("-c", "--config") or not Path(path).is_file():
                continue
            try:
                data = load(Path(path).read_text())
            except YAMLError:  # which the parser has told
                continue
            if isinstance(data, Mapping):
                sections = [data, *(data[name] for name in self.subcommands() if isinstance(data.get(name), Mapping))]
                yield from (found for section in sections for found in blocks(section) if found[1] != {})


def plan(
    self: Trainer,
    model: LightningModule,
    train_dataloaders: Any = None,
    datamodule: Any = None,
    output: str | None = "plan.png",
    parameters: bool = False,
    chart: bool | None = None,
    with_log: str | None = None,
) -> None:
    """Prints and draws what fit would do, without training.

    Args:
        self: The Trainer, of which this becomes a method.
        model: The module.
        train_dataloaders: Its train loader.
        datamodule: Its data module.
        output: Picture to draw the curves into, counted from the Trainer's default_root_dir; null for none. Of several
            optimisers each has its own, with its name before the ending.
        parameters: Whether to list every parameter, and what set each of its options.
        chart: Whether to draw the curves as text too; by default in a terminal.
        with_log: The metrics.csv of a run by this configuration, as a CSVLogger has written it for SolverMonitor or
            Lightning's LearningRateMonitor: what really happened is compared with the plan, and drawn beside it.
    """
    if not isinstance(model, SolverMixin):
        do = f"derive it: class {type(model).__name__}(SolverMixin, ...)"
        raise SolverError("model", f"{type(model).__name__} has no SolverMixin and so no plan", do=do)
    log = None if with_log is None else _of_log(partial(read_log, with_log))
    stop = _StopBeforeTraining()
    self.callbacks.append(stop)  # type: ignore[attr-defined]
    self.fit(model, train_dataloaders=train_dataloaders, datamodule=datamodule)
    if not self.is_global_zero:
        return
    automatic, plans = model.automatic_optimization, model.solver_plans
    found: dict[str, Happened] = {}
    if log is not None:
        look = {name: partial(happened, log, made, name=name, automatic=automatic) for name, made in plans.items()}
        found = {name: _of_log(one) for name, one in look.items()}
    several = list(plans) != [ALONE]
    for name, made in plans.items():
        if several:
            print(f"{name}\n{'=' * len(name)}")
        path = output if output is None or not several else str(Path(output).with_stem(f"{Path(output).stem}_{name}"))
        picture = None if path is None else Path(self.default_root_dir) / path
        _show(made, parameters, chart, picture, found.get(name))
        print()
    callbacks = [callback for callback in self.callbacks if callback is not stop]  # type: ignore[attr-defined]
    lines = describe(callbacks, idle=_idle(callbacks, model), module=model)
    print("callbacks, in the order in which they act\n" + "\n".join(f"  {line}" for line in lines))


def _of_log(read: Callable[[], _Read]) -> _Read:
    """What is read of a log, with errors that say by which argument it was given."""
    try:
        return read()
    except SolverError as error:
        raise SolverError(f"--with-log {error.where}", error.what, got=error.got, do=error.do) from error


def _idle(callbacks: Sequence[Any], model: SolverMixin) -> list[Any]:
    """Those of the mixin's own callbacks that have nothing to do in the run."""
    plans = model.solver_plans.values()
    works = {role for plan in plans for role in roles_at_work(plan)} - {"accumulate"}
    works |= {"guard"} | {"mode" for plan in plans for member in plan.members if has_modes(member.recipe.cls)}
    own = (FollowMetrics, Freezing, SolverClipping, SolverAverages, OptimizerMode)
    idle = [one for one in callbacks if isinstance(one, own) and one.role not in works]
    return idle + [c for c in callbacks if isinstance(c, SolverAccumulation) and c.accumulation(model) is None]


def _show(made: Plan, parameters: bool, chart: bool | None, picture: Path | None, logged: Happened | None) -> None:
    """Print a plan, and what really happened, and draw them."""
    print(made.table(parameters=parameters))
    if logged is not None:
        print(f"\n{logged.describe()}")
    if (sys.stdout.isatty() if chart is None else chart) and made.curves and made.run.total_steps is not None:
        print(f"\n{made.chart()}")
    if picture is None:
        return
    if made.run.total_steps is None:
        print("\nno picture: the length of the run is not known")
        return
    print(f"\npicture: {draw(made, picture, logged).resolve()}")


class _StopBeforeTraining(Callback):
    """Ends ``fit`` when everything is set up and nothing has been trained."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True
        trainer.fit_loop.min_epochs = None
        trainer.fit_loop.epoch_loop.min_steps = None
        trainer.num_sanity_val_steps = 0


def _mistake_in_override(message: str) -> SolverError | None:
    """What is wrong with an argument such as ``--solver.lr=fast`` or ``--solver.rules+={...}`` that a message is about.

    The message ends in what the parser made of it.
    """
    found = re.search(r"Parser key \"([\w.]+)\".*NestedArg\(key='([\w.]+)(\+?)', val=(.*)\)\s*$", message, re.DOTALL)
    if found is None or not found[1].endswith("solver"):
        return None
    key, path, appended = found[1], found[2], bool(found[3])
    try:
        value = literal_eval(found[4])
    except (ValueError, SyntaxError):
        return None
    value = get_loader("yaml")(value) if isinstance(value, str) else value
    single = appended and not isinstance(value, list)
    block: Any = [value] if single else value
    for name in reversed(path.split(".")):
        block = {name: block}
    try:
        read_solver(block, key)
    except SolverError as error:
        whole = f"{key}.{path}"
        if not appended:
            return error
        return error.moved(f"{whole}[0]", f"{whole}+") if single else error.moved(whole, f"{whole}+")
    return None


def _mistake_in_class(message: str) -> SolverError | None:
    """What is wrong with an argument of a class, of a callback say, that a message is about."""
    found = re.search(
        r"Parser key \"([\w.]+)\".*Problem with given class_path '([\w.]+)':\s*[Oo]ption '(\w+)' is not accepted",
        message,
        re.DOTALL,
    )
    if found is None:
        return None
    key, path, name = found.groups()
    own = path.rpartition(".")[2]
    try:
        known = [*signature(import_dotted(path, key)).parameters]
    except (SolverError, TypeError, ValueError):
        known = []
    return SolverError(key, f"{own} takes no such argument", got=repr(name), do=suggestion(name, known, "arguments"))


def _within(error: BaseException | None) -> SolverError | None:
    """The error of ours that another one was raised from."""
    while error is not None and not isinstance(error, SolverError):
        error = error.__cause__ or error.__context__
    return error


def _overrides(given: Sequence[str]) -> Iterator[tuple[str, list[str], Any]]:
    """What arguments such as ``--solver.layer_decay.rate=0.9`` give to a part of a block: key, path, value."""
    for i, argument in enumerate(given):
        name, equals, text = argument.partition("=")
        found = re.fullmatch(r"--((?:model\.(?:init_args\.)?)?solver)\.([\w.]+)", name)
        if found is None:
            continue
        if not equals:
            text = given[i + 1] if i + 1 < len(given) else ""
        yield found[1], found[2].split("."), get_loader("yaml")(text)


def _names_a_part(path: Sequence[str]) -> bool:
    """Whether an argument is for one of several optimisers, as ``--solver.generator.lr=0.1`` is."""
    return len(path) > 1 and path[0] not in field_hints(SolverSpec)


def _merged(old: Any, new: Any) -> Any:
    """A block with another over it: mappings are merged key by key, all else is replaced."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _as_plain(value: Any) -> Any:
    """What a parser holds, with namespaces as dicts."""
    if isinstance(value, (Namespace, Mapping)):
        return {
            str(key): _as_plain(inner)
            for key, inner in (vars(value) if isinstance(value, Namespace) else value).items()
        }
    return [_as_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
