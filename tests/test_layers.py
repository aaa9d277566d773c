"""The package as a whole: which module imports which, what is public, that it is documented."""

import ast
import graphlib
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_solver

ROOT = Path(lightning_solver.__file__).parent
PACKAGE = "lightning_solver"


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}

# A module imports from its own layer and from those above it. A new module is put into its layer here.
LAYERS = [
    {"errors"},
    {"durations", "plain"},
    {"roles"},
    {
        "schedules",
        "schedules.base",
        "schedules.curves",
        "schedules.join",
        "schedules.shapes",
        "schedules.steps",
        "schedules.functions",
        "schedules.plateau",
        "schedules.combine",
        "schedules.chain",
        "schedules.positions",
    },
    {"averaging", "averaging.average", "averaging.kinds", "accumulation"},
    {"optimizer_spec", "factors", "rule"},
    {"clipping", "clipping.clip", "clipping.kinds", "clipping.nonfinite"},
    {"spec", "presets", "several"},
    {"chart", "schema"},
    {"interop", *(name for name in MODULES if name.startswith("interop."))},
    {
        "rules",
        "rules.kinds",
        "rules.inventory",
        "rules.heads",
        "rules.layouts",
        "rules.depth",
        "rules.freezing",
        "rules.selection",
        "rules.cascade",
        "optimizers",
        "optimizers.unhooked",
        "optimizers.decoupled",
        "optimizers.recipe",
        "optimizers.stand_ins",
        "optimizers.sharded",
        "optimizers.unstepped",
        "optimizers.implementation",
        "optimizers.composite",
        "optimizers.modes",
        "members",
        "groups",
        "laying",
        "checks",
        "plan",
        "table",
        "drawing",
        "happened",
        "real_steps",
        "monitoring",
        "monitoring.series",
        "monitoring.history",
        "monitoring.measures",
        "monitoring.watch",
        "scheduler",
        "resume",
        "logs",
        "sharding",
        "clipping.norms",
        "clipping.ways",
        "clipping.units",
        "clipping.adaptive",
        "clipping.clipper",
        "clipping.planned",
        "clipping.at_work",
        "averaging.tensors",
        "averaging.exchange",
        "averaging.moving",
        "averaging.offload",
        "averaging.averaged",
        "averaging.planned",
        "averaging.batch_norm",
        "averaging.files",
        "averaging.mixing",
        "averaging.soups",
        "averaging.post_hoc",
        "averaging.weight_sets",
    },
    {"run_length"},
    {"parts"},
    {"manual"},
    {"norm_modes"},
    {
        "callbacks",
        "callbacks.plan_guard",
        "callbacks.follow_metrics",
        "callbacks.freezing",
        "callbacks.optimizer_mode",
        "callbacks.random_state",
        "callbacks.live_evaluation",
        "callbacks.statistics",
        "callbacks.averaging",
        "callbacks.averages",
        "callbacks.solver_averages",
        "callbacks.order",
        "callbacks.monitor",
        "callbacks.empty_cache",
        "callbacks.norm_statistics",
        "callbacks.accumulating",
        "callbacks.gradient_accumulation",
        "callbacks.solver_accumulation",
        "callbacks.clipping",
        "callbacks.gradient_clipping",
        "callbacks.solver_clipping",
    },
    {"files"},
    {"comparison"},
    {"mixin"},
    {"cli"},
    {"scoring"},
    {"average_command"},
    {"command"},
]
WITHOUT_TORCH = set().union(*LAYERS[:10])

# Imports inside of functions, made when they are needed, that go against the direction: module -> what it imports.
UPWARDS = {
    ("spec", "plan"),
    *(("averaging.average", f"averaging.{name}") for name in ("averaged", "tensors")),
    ("clipping.clip", "clipping.clipper"),
    *(("clipping.kinds", f"clipping.{name}") for name in ("ways", "units", "adaptive")),
}


LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(name):
    """(what is imported, whether it is when the module itself is) for every import but those for type checkers."""
    found = []

    def visit(node, at_once):
        if is_for_type_checkers(node):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                inner = full.removeprefix(f"{PACKAGE}.")
                found.append((full if inner in MODULES else node.module, at_once))
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, at_once and not inside)

    visit(ast.parse(MODULES[name].read_text()), True)
    return found


def own(name):
    """The modules of this package that a module imports."""
    return [
        (full.removeprefix(PACKAGE).removeprefix("."), at_once)
        for full, at_once in imports(name)
        if full.partition(".")[0] == PACKAGE
    ]


def test_every_module_has_its_layer():
    assert set(MODULES) - {""} == set(LAYER)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_direction_of_imports(name):
    for imported, at_once in own(name):
        if not at_once and (name, imported) in UPWARDS:
            continue
        assert imported in LAYER, f"{name} imports {imported or PACKAGE}"
        assert LAYER[imported] <= LAYER[name], f"{name} imports {imported}, which stands below it"


def test_exceptions_are_still_needed():
    assert {(name, imported) for name, imported in UPWARDS if (imported, False) in own(name)} == UPWARDS


def test_modules_can_be_put_in_order():
    graph = {name: {imported for imported, at_once in own(name) if at_once and imported != name} for name in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH | {""}))
def test_what_the_user_says_needs_neither_torch_nor_lightning(name):
    for full, at_once in imports(name):
        if at_once or name != "":
            assert full.partition(".")[0] not in ("torch", "lightning", "jsonargparse"), f"{name} imports {full}"


def test_nothing_imports_the_command_line():
    users = {(name, imported) for name in MODULES for imported, _ in own(name) if imported in ("cli", "command")}
    assert users == {("command", "cli"), ("scoring", "cli")}


def test_torch_is_not_loaded_before_it_is_needed():
    code = (
        "import sys, lightning_solver, lightning_solver.schedules\n"
        "spec = lightning_solver.SolverSpec(schedules={'lr': lightning_solver.schedules.Cosine()})\n"
        "assert spec.curve('lr', [0.1], total_steps=5).shape == (5, 1)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'lightning', 'matplotlib'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------ public names


def test_public_names():
    assert lightning_solver.__all__ == sorted(lightning_solver.__all__)
    assert set(lightning_solver.__all__) == {
        "ByName",
        "Duration",
        "FanIn",
        "LayerDecay",
        "OptimizerSpec",
        "Plan",
        "Rule",
        "RunLength",
        "Selector",
        "SolverCLI",
        "SolverError",
        "SolverMixin",
        "SolverSpec",
    }


@pytest.mark.parametrize("name", lightning_solver.__all__)
def test_every_public_name_is_there(name):
    found = getattr(lightning_solver, name)
    assert inspect.isclass(found)
    assert found.__name__ == name
    assert found.__module__.startswith(f"{PACKAGE}.")


@pytest.mark.parametrize("folder", ["schedules", "callbacks"])
def test_every_public_name_of_a_folder_is_there(folder):
    module = importlib.import_module(f"{PACKAGE}.{folder}")
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'lightning_solver' has no attribute 'Sovler'"):
        lightning_solver.Sovler  # noqa: B018


def test_the_version_is_one():
    assert [part.isdigit() for part in lightning_solver.__version__.split(".")[:2]] == [True, True]


# ------------------------------------------------------------------ documentation


def defined(module):
    """(dotted name, object) for every public class, function, method and property that a module defines."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        if inspect.isclass(value):
            yield name, value
            for inner, member in vars(value).items():
                kinds = (property, classmethod, staticmethod)
                if not inner.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds)):
                    yield f"{name}.{inner}", getattr(value, inner)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_public_thing_has_a_docstring(name):
    module = importlib.import_module(f"{PACKAGE}.{name}".rstrip("."))
    assert inspect.getdoc(module)
    missing = [
        path
        for path, value in defined(module)
        # A dataclass without a docstring is given its signature for one.
        if not inspect.getdoc(value) or (inspect.isclass(value) and value.__doc__ == f"{path}{signature(value)}")
    ]
    assert missing == []


def signature(cls):
    try:
        return str(inspect.signature(cls)).replace(" -> None", "")
    except ValueError:
        return ""


def test_the_walk_over_what_is_defined_finds_something():
    plan = importlib.import_module(f"{PACKAGE}.plan")
    assert {"Plan", "Plan.curve", "Plan.draw", "make_plan"} <= {name for name, _ in defined(plan)}
    found = {name.removeprefix(f"{PACKAGE}.") for _, name, _ in pkgutil.walk_packages([str(ROOT)], f"{PACKAGE}.")}
    assert found == set(MODULES) - {""}
