"""For an environment that has nothing but the installed wheel: it imports quickly and does nothing else."""

import importlib
import sys
import threading
import time

start = time.perf_counter()
lightning = importlib.import_module("lightning")
between = time.perf_counter()
torch = importlib.import_module("torch")

threads, generator = threading.active_count(), torch.get_rng_state()
start_own = time.process_time()
import lightning_solver  # noqa: E402

took = time.process_time() - start_own
assert threading.active_count() == threads, "importing started a thread"
assert torch.equal(torch.get_rng_state(), generator), "importing drew random numbers"
assert "matplotlib" not in sys.modules, "importing loaded an optional package"
assert took < 0.1, f"importing lightning_solver took {took:.3f} s on top of lightning"

from lightning_solver import OptimizerSpec, SolverCLI, SolverError, SolverMixin, SolverSpec  # noqa: E402
from lightning_solver.schedules import Cosine  # noqa: E402

spec = SolverSpec(optimizer=OptimizerSpec("AdamW"), schedules={"lr": Cosine()})
plan = spec.plan(torch.nn.Linear(2, 2), total_steps=9)
assert plan.curve("lr").shape == (9, 2)
try:
    plan.draw("plan.png")
except SolverError as error:
    assert "pip install 'lightning-solver[plot]'" in str(error), error
else:
    raise AssertionError("matplotlib should not be installed here")
assert SolverCLI is not None and SolverMixin is not None
version, milliseconds = lightning_solver.__version__, 1000 * took
print(f"lightning_solver {version}: lightning {between - start:.2f} s, ours {milliseconds:.0f} ms on top")
