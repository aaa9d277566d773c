"""docs/parameters.md and docs/optimizers.md: every block is read and planned, and the plan that is shown is the plan."""

import re
from pathlib import Path

import pytest
import yaml
from torch import nn

from lightning_solver import RunLength, SolverSpec
from lightning_solver.averaging import Average, DecayWarmup
from lightning_solver.plain import subclasses
from lightning_solver.rule import KINDS, SELECTORS, Rule
from vit import ViT

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("parameters", "optimizers", "averages")}
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
