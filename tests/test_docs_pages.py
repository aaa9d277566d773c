"""The pages in docs but for curves.md: every block is read and planned, every setting is told, what is shown is so."""

import contextlib
import inspect
import io
import re
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from lightning_solver import RunLength, SolverMixin, SolverSpec, callbacks
from lightning_solver.accumulation import Accumulation
from lightning_solver.averaging import Average, DecayWarmup
from lightning_solver.callbacks.order import ROLES
from lightning_solver.clipping import Clip, NonFinite
from lightning_solver.monitoring.series import SERIES
from lightning_solver.plain import subclasses
from lightning_solver.roles import in_order
from lightning_solver.rule import KINDS, SELECTORS, Rule
from small import trainer
from vit import ViT

DOCS = Path(__file__).parent.parent / "docs"
NAMES = ("parameters", "optimizers", "averages", "gradients", "hooks")
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
BLOCKS = [(name, block) for name, page in PAGES.items() for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
RUN = RunLength(total_steps=1000, steps_per_epoch=100, samples_per_step=256)


def model(spec):
    if "table.*" not in str(spec.to_dict()):
        return ViT()
    return nn.ModuleDict({"table": nn.Embedding(10, 4, sparse=True), "head": nn.Linear(4, 2)})


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_every_block_is_read_and_planned(page, block):
    spec = SolverSpec.from_dict(yaml.safe_load(block))
    assert SolverSpec.from_dict(spec.to_dict()) == spec
    made = spec.plan(model(spec), run=RUN)
    optimizer, _ = made.build()
    assert [group["name"] for group in optimizer.param_groups] == [group.name for group in made.groups]
    assert not [note for note in made.notes if "override" in note or "is left for it" in note]


def test_the_plan_that_is_shown_is_the_plan_of_the_block_above_it():
    page = PAGES["parameters"]
    shown = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    block = re.findall(r"```yaml\n(.*?)```", page[: shown.start()], re.DOTALL)[-1]
    made = SolverSpec.from_dict(yaml.safe_load(block)).plan(ViT(), run=RunLength(total_steps=1000, steps_per_epoch=100))
    assert shown.group(1).rstrip() == made.table().rstrip()


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_is_told(name):
    assert f"`{name}: " in PAGES["parameters"]


@pytest.mark.parametrize("name", [*KINDS, *(set(Rule.__dataclass_fields__) - set(SELECTORS) - {"name", "kind"})])
def test_every_kind_and_field_of_a_rule_is_told(name):
    assert re.search(rf"`?{name}\b", PAGES["parameters"])


@pytest.mark.parametrize("name", [field for field in Average.__dataclass_fields__ if field != "takes_last"])
def test_every_field_of_an_average_is_told(name):
    assert f"`{name}`" in PAGES["averages"]


@pytest.mark.parametrize("name", [*subclasses(Average), *subclasses(DecayWarmup)])
def test_every_average_and_warm_up_of_a_decay_is_told(name):
    assert re.search(rf"\b{name}\b", PAGES["averages"])


# ------------------------------------------------------------------ gradients.md

SETTINGS = {kind: [*cls.__dataclass_fields__] for kind, cls in {**subclasses(Clip), "NonFinite": NonFinite}.items()}


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, fields in SETTINGS.items() for field in fields])
def test_every_field_of_a_clipping_is_told(kind, field):
    page = PAGES["gradients"]
    found = [part for part in re.split(r"\n###? ", page) if kind in part.partition("\n")[0] or kind == "NonFinite"]
    told = "".join(found) + page[page.index("### Which parameters") : page.index("### Where it is right")]
    assert found
    assert f"`{field}`" in told or f"`{field}: " in told


@pytest.mark.parametrize("name", subclasses(Clip))
def test_every_clipping_has_its_formula_and_its_section(name):
    assert re.search(rf"^\| `{name}` \|", PAGES["gradients"], re.MULTILINE)
    assert re.search(rf"^### .*\b{name}\b", PAGES["gradients"], re.MULTILINE)


@pytest.mark.parametrize("name", Accumulation.__dataclass_fields__)
def test_every_field_of_an_accumulation_is_told(name):
    page = PAGES["gradients"]
    assert re.search(rf"`[^`\n]*\b{name}\b", page[page.index("## Accumulation") : page.index("## In a loop")])


def test_every_form_of_an_accumulation_is_read():
    forms = re.findall(r"^\| `(accumulate: .*?)` \|", PAGES["gradients"], re.MULTILINE)
    assert len(forms) == 6
    for form in forms:
        spec = SolverSpec.from_dict({"optimizer": {"name": "SGD", "args": {"lr": 0.1}}, **yaml.safe_load(form)})
        assert spec.plan(ViT(), run=RUN).build()


# ------------------------------------------------------------------ hooks.md


@pytest.mark.parametrize("name", callbacks.__all__)
def test_every_callback_is_told(name):
    assert re.search(rf"^\| .*`{name}`", PAGES["hooks"], re.MULTILINE)


def test_the_order_is_that_in_which_callbacks_act():
    rows = re.findall(r"^\| (\w+) \| (.*) \|$", PAGES["hooks"].partition("| in this order |")[2], re.MULTILINE)
    expected = [(name, ROLES[name].does) for name in in_order() if ROLES[name].by_callback]
    assert rows[: len(expected)] == expected


@pytest.mark.parametrize("name", SERIES)
def test_every_series_of_the_monitor_is_told(name):
    page = PAGES["hooks"]
    assert re.search(rf"`{name}[`/]", page[page.index("## SolverMonitor") : page.index("## SyncNormStatistics")])


@pytest.mark.parametrize("name", ["SolverMonitor", "SyncNormStatistics", "EmptyCache"])
def test_every_setting_of_a_callback_is_told(name):
    section = PAGES["hooks"].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    for setting in inspect.signature(getattr(callbacks, name)).parameters:
        assert re.search(rf"`[^`\n]*\b{setting}\b", section), setting


# ------------------------------------------------------------------ Python in both


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


def run(block, names):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(block, "docs", "exec"), names)
    return shown.getvalue()


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0")  # which loggers are installed is no matter here
def test_the_trainer_and_the_loop_of_ones_own_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer_of, _, block = python_blocks("gradients")
    names = {}
    run(trainer_of, names)
    assert run(block, names).count("tensor(") == 3
    assert names["clipped"].clipped_norm == pytest.approx(1.0)
    assert names["clipped"].norm > 1
    assert [*names["state"]] == ["norms"]


def test_weighted_batches_give_the_gradient_of_one_large_batch():
    names = {"SolverMixin": SolverMixin, "LightningModule": LightningModule, "F": nn.functional}
    _, block, _ = python_blocks("gradients")
    run(block, names)

    class Small(names["LanguageModel"]):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3))

        def forward(self, inputs):
            return self.net(inputs)

    labels = torch.tensor([[1, -100, -100], [2, 0, 1], [0, 1, -100], [2, 2, 2]])
    data = [{"inputs": row.clamp(min=0), "labels": row} for row in labels]
    made = []
    for accumulate, batch_size in (({"batches": 4, "weigh_by": "tokens"}, 1), (1, 4)):
        net = Small()
        net.solver = {"optimizer": {"name": "SGD", "args": {"lr": 0.1}}, "accumulate": accumulate}
        trainer(max_epochs=2).fit(net, DataLoader(data, batch_size=batch_size))
        made.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    torch.testing.assert_close(*made, rtol=0, atol=1e-6)


def test_the_order_that_is_shown_is_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order, monitor, history, drawing = python_blocks("hooks")
    names = {}
    assert f"```text\n{run(order, names)}```" in PAGES["hooks"]
    run(monitor, names)
    names["monitor"].histories.add(0, {"lr": 0.1})
    run(history, names)
    run(drawing, names)
    assert names["DrawPredictions"]().interval == 50
