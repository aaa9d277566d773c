import pytest
import torch
from torch import nn

from lightning_solver import Rule, RunLength, Selector, SolverSpec
from lightning_solver.accumulation import Accumulation
from lightning_solver.averaging import EMA
from lightning_solver.clipping import AGC, GlobalNorm, NonFinite, Value
from lightning_solver.schedules import Constant, Cosine, Linear, Step
from lightning_solver.table import roles_at_work

ADAMW = {"name": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1, "betas": [0.8, 0.95]}}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.backbone = nn.Sequential(nn.Linear(40, 30), nn.LayerNorm(30))
        self.head = nn.Linear(30, 2)


def plan(module=None, *, total_steps=1000, run=None, **more):
    spec = SolverSpec(optimizer=more.pop("optimizer", ADAMW), **more)
    module = Net() if module is None else module
    return spec.plan(module, run=run) if run is not None else spec.plan(module, total_steps=total_steps)


def lines(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_headline_counts_and_names_the_arguments():
    made = lines(plan().table())
    assert made[0] == "AdamW: 1,353 trainable numbers in 7 tensors, 2 groups"
    assert made[1] == "run: 1,000 optimiser steps"
    assert made[2] == "arguments: lr 0.01, weight_decay 0.1, betas (0.8, 0.95)"


def test_singular_and_no_arguments():
    made = lines(plan(nn.Linear(2, 1, bias=False), optimizer={"name": "SGD"}).table())
    assert made[0] == "SGD: 2 trainable numbers in 1 tensor, 1 group"
    assert made[2] == "arguments: all at their defaults"


def test_every_group_has_a_line_with_counts_values_and_what_set_them():
    made = lines(plan(rules=[Rule(match="head.*", lr_scale=0.5)]).table())
    assert "group tensors numbers lr betas weight_decay set by" in made
    assert "default 2 1,201 0.01 (0.8, 0.95) 0.1 optimizer.args and defaults" in made
    assert "no_decay 3 90 0.01 (0.8, 0.95) 0 weight_decay: default_rules (no_decay)" in made
    assert "head 1 60 0.005 (0.8, 0.95) 0.1 lr: rules[0] (match head.*)" in made
    assert (
        "head.no_decay 1 2 0.005 (0.8, 0.95) 0 "
        "lr: rules[0] (match head.*); weight_decay: default_rules (no_decay)" in made
    )


def test_options_in_which_groups_differ_are_shown():
    assert "group tensors numbers lr betas weight_decay set by" in lines(plan().table())
    made = lines(plan(rules=[Rule(match="head.*", set={"eps": 1e-6})]).table())
    assert "group tensors numbers lr betas eps weight_decay set by" in made
    assert "eps_1e-06" not in plan().table()


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (RunLength(total_steps=1000, steps_per_epoch=250), "run: 1,000 optimiser steps, 4 epochs of 250"),
        (RunLength(total_steps=25, steps_per_epoch=6.25), "run: 25 optimiser steps, 4 epochs of 6.25"),
        (
            RunLength(total_steps=25, epoch_ends=[10, 15, 25]),
            "run: 25 optimiser steps in 3 epochs, which end at steps 10, 15, 25",
        ),
        (
            RunLength(total_steps=21, epoch_ends=[1, 3, 6, 10, 15, 21]),
            "run: 21 optimiser steps in 6 epochs, which end at steps 1, 3, 6, 10, ... (6 in all)",
        ),
        (RunLength(total_steps=10, batches_per_step=4), "run: 10 optimiser steps; 4 batches make a step"),
        (RunLength(total_steps=10, batches_per_step=1), "run: 10 optimiser steps"),
        (RunLength(), "run: of unknown length (no total_steps); nothing in the spec needs it"),
        (RunLength(unknown="no end"), "run: of unknown length (no end); nothing in the spec needs it"),
    ],
    ids=["even", "fractional", "uneven", "many", "batches", "one batch", "unknown", "reason"],
)
def test_length_of_the_run(run, text):
    assert lines(plan(run=run).table())[1] == text


def test_schedules_are_shown_at_telling_steps():
    made = lines(plan(schedules={"lr": [Linear(start=0.0, until=100), Cosine()]}, default_rules=False).table())
    head = next(line for line in made if line.startswith("lr at step ")).removeprefix("lr at step ").split()
    row = made[made.index("lr at step " + " ".join(head)) + 2].removeprefix("default ").split()
    values = dict(zip((int(step.replace(",", "")) for step in head), map(float, row), strict=True))
    assert {0, 250, 500, 750, 999} <= set(values)
    assert set(values) & {99, 100, 101}, "the end of the warm-up is not among the steps"
    curve = SolverSpec(schedules={"lr": [Linear(start=0.0, until=100), Cosine()]}).curve("lr", [0.01], total_steps=1000)
    assert values == {step: float(f"{curve[step, 0]:.3g}") for step in values}


def test_every_schedule_and_group_is_shown():
    made = plan(schedules={"lr": Linear(end=0.0), "momentum": Constant(0.5), "weight_decay": Linear(end=0.0)}).table()
    for option in ("lr", "momentum", "weight_decay"):
        assert f"{option} at step" in made
    assert made.count("no_decay  ") >= 4


def test_schedules_of_a_run_of_unknown_length():
    made = plan(run=RunLength(), schedules={"lr": Step(every=10)}).table()
    assert lines(made)[-4].startswith("lr at step 0 1 10 100 1,000")


def test_one_step():
    made = lines(plan(total_steps=1, schedules={"lr": Linear()}).table())
    assert "lr at step 0" in made
    assert "default 0.01" in made


def test_what_is_left_out():
    net = Net()
    net.backbone.requires_grad_(False)
    made = plan(net).table()
    assert (
        "left out of the optimiser (4)\n  frozen: backbone.0.weight, backbone.0.bias, backbone.1.weight, backb" in made
    )
    assert "left out" not in plan().table()


def test_a_long_list_of_what_is_left_out_is_cut_but_for_the_full_table():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    net[:3].requires_grad_(False)
    assert "frozen: 0.weight, 0.bias, 1.weight, 1.bias, ... (6 in all)" in plan(net).table()
    assert "frozen: 0.weight, 0.bias, 1.weight, 1.bias, 2.weight, 2.bias" in plan(net).table(parameters=True)


def test_notes_are_shown():
    made = plan(schedules={"lr": Linear(start=0.0)})
    assert made.table().endswith(f"notes\n  - {made.notes[0]}")
    assert "notes" not in plan().table()


def test_every_parameter_in_order_with_its_reasons():
    made = plan(rules=[Rule(match="head.*", lr_scale=0.5)])
    short, long = made.table(), made.table(parameters=True)
    assert "parameter " not in short
    table = lines(long)
    start = table.index("parameter shape group lr betas weight_decay why")
    rows = table[start + 2 : start + 2 + len(made.parameters)]
    assert [row.split()[0] for row in rows] == list(made.parameters)
    assert rows[0].startswith("scale () default 0.01 (0.8, 0.95) 0.1 lr: optimizer.args; betas: optimizer.args; ")
    assert rows[5].startswith("head.weight 2x30 head 0.005 (0.8, 0.95) 0.1 lr: rules[0] (match head.*); ")
    assert rows[6].endswith("weight_decay: default_rules (no_decay)")


def test_str_is_the_table():
    made = plan()
    assert str(made) == made.table()


def test_columns_are_aligned_and_lines_have_no_blanks_at_their_end():
    text = plan(rules=[Rule(match="head.*", lr_scale=0.5)], schedules={"lr": Cosine()}).table(parameters=True)
    assert all(line == line.rstrip() for line in text.splitlines())
    table = text.split("\n\n")[1].splitlines()
    assert {line[: len("head.no_decay")].strip() for line in table[2:]} == {
        "default",
        "no_decay",
        "head",
        "head.no_decay",
    }
    ends = {line.index(tensors) for line, tensors in zip(table[2:], (" 2 ", " 3 ", " 1 ", " 1 "))}
    assert len(ends) == 1


# ------------------------------------------------------------------ gradients


def section(text, title):
    return next(lines(part) for part in text.split("\n\n") if part.startswith(title))


def test_every_clipping_is_told_with_what_it_is_for():
    clips = [GlobalNorm(max_norm=0.5), AGC(unless=Selector(match="head.*"))]
    made = plan(clip=clips, nonfinite="skip", accumulate={0: 1, 500: 4})
    assert section(made.table(), "gradients") == [
        "gradients",
        "accumulate 1 batch a step, 4 from 500 on",
        "not finite leaves the step out; 20 in a row end the run",
        "clip[0] GlobalNorm (max_norm 0.5); all 7 tensors",
        "clip[1] AGC unless match head.*; 5 of 7 tensors",
    ]


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("error", "not finite ends the run"),
        ("zero", "not finite puts 0 in the place of such numbers; 20 in a row end the run"),
        (NonFinite("skip", in_a_row=3), "not finite leaves the step out; 3 in a row end the run"),
    ],
)
def test_what_becomes_of_gradients_that_are_not_finite(policy, text):
    assert section(plan(nonfinite=policy).table(), "gradients") == ["gradients", text]


@pytest.mark.parametrize(
    ("accumulate", "batches", "told"),
    [
        (4, 4, None),
        (Accumulation(samples=64), None, "accumulate 64 samples a step"),
        (Accumulation(4, weigh_by="tokens"), 4, "accumulate 4 batches a step, weighted by tokens"),
        (Accumulation(4, keep_gradients=True), 4, "accumulate 4 batches a step, gradients in checkpoints"),
    ],
)
def test_accumulation_is_told_once(accumulate, batches, told):
    table = plan(accumulate=accumulate, run=RunLength(total_steps=10, batches_per_step=batches)).table()
    assert ("; 4 batches make a step" in table) == (batches == 4)
    assert ("\ngradients\n" in table) == (told is not None)
    assert told is None or section(table, "gradients")[1] == told


def test_limits_that_move_are_shown_at_telling_steps():
    made = plan(clip=[GlobalNorm(max_norm=2.0, schedule=Linear(end=0.0005)), Value(max_value=1.0)])
    shown = section(made.table(), "limit (max_norm) at step")
    assert shown[0] == "limit (max_norm) at step 0 250 500 750 999"
    (row,) = shown[2:]
    limits = made.curve("clip")[[0, 250, 500, 750, 999], 0]
    assert row == "clip[0] (GlobalNorm) " + " ".join(f"{limit:.3g}" for limit in limits)


def test_limits_of_several_kinds_have_tables_of_their_own():
    moves = Linear(end=0.1)
    clips = [GlobalNorm(max_norm=2.0, schedule=moves), Value(max_value=1.0, schedule=moves), AGC(schedule=moves)]
    table = plan(clip=clips).table()
    for name in ("max_norm", "max_value", "factor"):
        assert f"\nlimit ({name}) at step" in table


def test_a_plain_plan_says_nothing_of_gradients_and_steps():
    table = plan(schedules={"lr": Cosine()}).table()
    assert "gradients" not in table
    assert "in a step" not in table
    assert "limit" not in table


def in_a_step(table):
    (found,) = [line for line in table.splitlines() if line.startswith("in a step: ")]
    return found.removeprefix("in a step: ").split(" -> ")


def test_what_acts_in_a_step_is_told_in_order():
    made = plan(
        rules=[Rule(match="backbone.*", frozen_until=100)],
        schedules={"weight_decay": Cosine(), "lr": Cosine()},
        clip=[GlobalNorm(max_norm=1.0), Value(max_value=1.0)],
        nonfinite="skip",
        accumulate=4,
        averages={"slow": EMA(0.99, evaluated=True), "fast": EMA(0.9)},
        run=RunLength(total_steps=1000, batches_per_step=4),
    )
    assert in_a_step(made.table()) == [
        "gather the gradients of the batches",
        "drop gradients of what is frozen (until step 100)",
        "look whether gradients are finite",
        "clip by GlobalNorm, then Value",
        "step AdamW",
        "move weight_decay, lr",
        "average (slow, fast)",
    ]


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ({"clip": GlobalNorm(1.0)}, ["clip by GlobalNorm", "step AdamW"]),
        ({"nonfinite": "zero"}, ["look whether gradients are finite", "step AdamW"]),
        ({"averages": {"ema": EMA(0.9)}}, ["step AdamW", "average (ema)"]),
        (
            {"accumulate": 2, "schedules": {"lr": Cosine()}},
            ["gather the gradients of the batches", "step AdamW", "move lr"],
        ),
    ],
    ids=["clip", "nonfinite", "average", "accumulate"],
)
def test_only_what_there_is_to_do_is_told(more, steps):
    made = plan(**more)
    assert in_a_step(made.table()) == steps


def test_accumulation_of_the_trainer_is_told_too():
    table = plan(run=RunLength(total_steps=1000, batches_per_step=2)).table()
    assert in_a_step(table) == ["gather the gradients of the batches", "step AdamW"]
    made = plan(run=RunLength(total_steps=1000, batches_per_step=2))
    assert roles_at_work(made) == {"accumulate", "step"}
