"""docs/curves.md: its blocks are read and evaluated, its pictures are there, its formulas are what the blocks give."""

import importlib.util
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_solver import SolverSpec, schedules
from lightning_solver.schedules import Schedule

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "curves.md").read_text(encoding="utf-8")
T = 1000


def load():
    spec = importlib.util.spec_from_file_location("draw_curves", DOCS / "draw_curves.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_curves"] = module
    spec.loader.exec_module(module)
    return module


draw_curves = load()
PICTURES = {picture.name: picture for picture in draw_curves.pictures(PAGE)}
BLOCKS = [(name, i) for name, picture in PICTURES.items() for i in range(len(picture.blocks))]

SCHEDULES = [
    name
    for name in schedules.__all__
    if name != "Schedule"
    and isinstance(getattr(schedules, name), type)
    and issubclass(getattr(schedules, name), Schedule)
]


def curve(name, label="", option="lr", group=0):
    """The values of the block that is called ``label`` above the picture ``name``."""
    (block,) = [block for block in PICTURES[name].blocks if block.label == label]
    lines = [line for line in block.lines() if line.option == option]
    return lines[group].values


# ------------------------------------------------------------------ the page as a whole


@pytest.mark.parametrize(("name", "i"), BLOCKS, ids=[f"{name}-{i}" for name, i in BLOCKS])
def test_every_block_is_read_and_evaluated(name, i):
    block = PICTURES[name].blocks[i]
    lines = block.lines()
    assert {line.option for line in lines} == set(block.spec.schedules)
    for line in lines:
        assert line.values.shape == (T,)
        assert np.isfinite(line.values).all()
        assert (line.values >= 0).all()
    assert SolverSpec.from_dict(block.spec.to_dict()) == block.spec


def test_every_block_of_yaml_belongs_to_a_picture():
    assert sum(len(picture.blocks) for picture in PICTURES.values()) == PAGE.count("```yaml")
    assert len(PICTURES) == PAGE.count("](curves/") > 40


def test_blocks_that_share_a_picture_have_names():
    for picture in PICTURES.values():
        labels = [block.label for block in picture.blocks]
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_appears(name):
    assert f"class_path: {name}" in PAGE


def test_pictures_are_there_and_up_to_date_and_no_others():
    assert draw_curves.faults(list(PICTURES.values())) == [], "run: python docs/draw_curves.py"


def test_pictures_are_small():
    for picture in PICTURES.values():
        assert picture.path.stat().st_size < 12_000


def test_links_lead_to_headings():
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(set(anchors)) == len(anchors)
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert len(links) > 50
    assert set(links) <= set(anchors)


# ------------------------------------------------------------------ the script


def test_check_alone(capsys):
    assert draw_curves.main(["--check"]) == 0
    assert capsys.readouterr().out.endswith(" 0 faults\n")


def test_a_picture_is_drawn_and_found_stale_when_its_block_changes(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(draw_curves, "FOLDER", tmp_path / "curves")
    text = "```yaml\nschedules:\n  lr: {class_path: Cosine}\n```\n\n![x](curves/x.png)\n"
    (picture,) = draw_curves.pictures(text)
    assert draw_curves.faults([picture]) == ["x.png: missing or out of date"]
    draw_curves.draw(picture)
    assert draw_curves.faults([picture]) == []
    (changed,) = draw_curves.pictures(text.replace("Cosine", "Rex"))
    assert draw_curves.faults([changed]) == ["x.png: missing or out of date"]
    (tmp_path / "curves" / "y.png").touch()
    assert draw_curves.faults([picture]) == ["y.png: the page does not name it"]


def test_a_block_that_is_wrong_says_where_it_stands():
    (picture,) = draw_curves.pictures("\n```yaml\nschedules: {lr: {class_path: Cosin}}\n```\n![x](curves/x.png)\n")
    with pytest.raises(Exception, match=r"curves\.md:2.*Cosine"):
        picture.blocks[0].lines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```yaml\na: 1\n```\n", "curves.md:1: no picture shows this block"),
        ("\n![x](curves/x.png)\n", "curves.md:2: x.png has no block of YAML above it"),
        ("```yaml\na: 1\n```\n![x](curves/x.png)\n" * 2, "curves.md:8: x.png stands there twice"),
    ],
)
def test_a_page_that_is_wrong(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw_curves.pictures(text)


# ------------------------------------------------------------------ formulas, by independent arithmetic


def cosine(x):
    return (1 + math.cos(math.pi * x)) / 2


def triangle(t):
    p = t % 200
    return p / 100 if p < 100 else (200 - p) / 100


def wsd(decay):
    return lambda t: t / 100 if t < 100 else 1 if t < 600 else decay((t - 600) / 400)


def warmup(shape):
    return lambda t: shape(t / 500) if t < 500 else 1


def floor(f, m):
    return lambda x: m + (1 - m) * f(x)


# (picture, label) -> the value at step t of 1000, for a base value of 1
FORMULAS = {
    ("constant", ""): lambda t: 1,
    ("linear", "to 0"): lambda t: 1 - t / T,
    ("linear", "to a tenth"): lambda t: 1 - 0.9 * t / T,
    ("cosine", "to 0"): lambda t: cosine(t / T),
    ("cosine", "floor of a tenth"): lambda t: 0.1 + 0.9 * cosine(t / T),
    ("cosine", "floor of 0.2, absolute"): lambda t: 0.2 + 0.8 * cosine(t / T),
    ("cosine", "k-decay, k = 2"): lambda t: cosine((t / T) ** 2),
    ("polynomial", "power 0.9"): lambda t: (1 - t / T) ** 0.9,
    ("polynomial", "power 2, floor"): lambda t: 0.05 + 0.95 * (1 - t / T) ** 2,
    ("polynomial", "power 0.5"): lambda t: math.sqrt(1 - t / T),
    ("polynomial", "k-decay, k = 2"): lambda t: (1 - (t / T) ** 2) ** 0.9,
    ("exponential", "0.8 an epoch"): lambda t: 0.8 ** (t / 100),
    ("exponential", "0.8 an epoch, stairs"): lambda t: 0.8 ** (t // 100),
    ("exponential", "to a hundredth"): lambda t: 0.01 ** (t / T),
    ("inverse", "power 1"): lambda t: 1 / (1 + t / 100),
    ("inverse", "warm-up, hold, power 0.5"): lambda t: t / 100 if t < 100 else 10 / math.sqrt(max(t - 200, 100)),
    ("inverse-sqrt", "transformers"): lambda t: t / 100 if t < 100 else 1 / math.sqrt(t / 100),
    ("inverse-sqrt", "NeMo"): lambda t: (t + 1) / 101 if t < 100 else 1 / math.sqrt((t + 1) / 101),
    ("inverse-sqrt", "T5, with W = 100"): lambda t: 1 / math.sqrt(max(t, 100)),
    ("noam", ""): lambda t: 512**-0.5 * min(t**-0.5, t * 100**-1.5) if t else 0,
    ("tanh", "-7 to 3"): lambda t: (1 - math.tanh(-7 + 10 * t / T)) / 2,
    ("tanh", "-4 to 4"): lambda t: (1 - math.tanh(-4 + 8 * t / T)) / 2,
    ("rex", ""): lambda t: (1 - t / T) / (0.5 + 0.5 * (1 - t / T)),
    ("step", ""): lambda t: 0.5 ** (t // 300),
    ("multi-step", ""): lambda t: 1 if t < 600 else 0.2 if t < 900 else 0.04,
    ("fixed-steps", "2 drops"): lambda t: 0.3 ** (3 * t // T),
    ("fixed-steps", "4 drops"): lambda t: 0.5 ** (5 * t // T),
    ("given-values", "stairs"): lambda t: 0.3 if t < 200 else 1 if t < 500 else 0.5 if t < 800 else 0.2,
    ("given-values", "lines"): lambda t: float(np.interp(t, [0, 200, 500, 700, 1000], [0, 0.8, 0.4, 0.6, 0])),
    ("cosine-restarts", "equal periods"): lambda t: cosine(t % 250 / 250),
    ("cosine-restarts", "growing periods"): lambda t: cosine(
        7 * t / T if 7 * t < T else (7 * t / T - 1) / 2 if 7 * t < 3 * T else (7 * t / T - 3) / 4
    ),
    ("cosine-restarts", "decay"): lambda t: 0.6 ** (t // 200) * cosine(t % 200 / 200),
    ("cosine-restarts", "at most 2 cycles"): lambda t: 0.1 + 0.9 * cosine(t % 300 / 300) if t < 600 else 0.1,
    ("weighted-restarts", "MMEngine"): lambda t: (
        0.2
        + (
            0.8 * cosine(t / 200)
            if t < 200
            else 0.5 * cosine((t - 200) / 300)
            if t < 500
            else 0.2 * cosine((t - 500) / 500)
        )
    ),
    ("weighted-restarts", "MMCV"): lambda t: (
        0.2
        + 0.8
        * (cosine(t / 200) if t < 200 else 0.7 * cosine((t - 200) / 300) if t < 500 else 0.4 * cosine((t - 500) / 500))
    ),
    ("cyclic", "triangular"): lambda t: 0.1 + 0.9 * triangle(t),
    ("cyclic", "triangular2"): lambda t: 0.1 + 0.9 * triangle(t) / 2 ** (t // 200),
    ("cyclic", "exp_range"): lambda t: 0.1 + 0.9 * triangle(t) * 0.998**t,
    ("cyclic-polynomial", ""): lambda t: 0.05 + 0.95 * (1 - t / (250 * max(math.ceil(t / 250), 1))),
    ("flat-cosine", ""): lambda t: 1 if t < 750 else 0.01 + 0.99 * cosine((t - 750) / 250),
    ("wsd", "linear"): wsd(floor(lambda x: 1 - x, 0.02)),
    ("wsd", "cosine"): wsd(floor(cosine, 0.02)),
    ("wsd", "1-sqrt"): wsd(floor(lambda x: 1 - math.sqrt(x), 0.02)),
    ("wsd", "power 2"): wsd(floor(lambda x: 1 - x**2, 0.02)),
    ("wsd", "exponential"): wsd(lambda x: 0.02**x),
    ("wsd-rsqrt", ""): lambda t: (
        (t / 100 if t < 100 else 1 / math.sqrt(t / 100)) * (1 if t < 800 else 1 - math.sqrt((t - 800) / 200))
    ),
    ("step-cosine", ""): lambda t: 1 if t < 300 else 0.6 if t < 500 else 0.36 * cosine(max(t - 600, 0) / 400),
    ("swa", ""): lambda t: 0.1 + 0.9 * cosine(t / 600) if t < 600 else 0.5 - 0.4 * cosine(min(t - 600, 200) / 200),
    ("warmups", "constant"): warmup(lambda x: 0.1),
    ("warmups", "linear"): warmup(lambda x: 0.1 + 0.9 * x),
    ("warmups", "exponential"): warmup(lambda x: 0.1 ** (1 - x)),
    ("warmups", "cosine"): warmup(lambda x: 0.1 + 0.9 * (1 - math.cos(math.pi * x)) / 2),
    ("warmups", "1-sqrt"): warmup(lambda x: 0.1 + 0.9 * (1 - math.sqrt(1 - x))),
    ("warmups", "quadratic"): warmup(lambda x: 0.1 + 0.9 * x**2),
    ("meets", "delay"): lambda t: 0.1 + 0.003 * t if t < 300 else cosine((t - 300) / 700),
    ("meets", "multiply"): lambda t: min(0.1 + 0.003 * t, 1) * cosine(t / T),
    ("meets", "interpolate"): lambda t: 0.1 + (cosine(0.3) - 0.1) * t / 300 if t < 300 else cosine(t / T),
    ("meets", "beneath"): lambda t: 0.1 + 0.003 * t if t < 300 else cosine(t / T),
    ("first-step", "t / W"): lambda t: min(t / 5, 1),
    ("first-step", "(t + 1) / W"): lambda t: min((t + 1) / 5, 1),
    ("first-step", "Composer"): lambda t: min(max(t - 1, 0) / 5, 1),
    ("staircase", "cosine by epochs"): lambda t: cosine(t // 100 / 10),
    ("staircase", "with a warm-up by steps"): lambda t: min(0.1 + 0.9 * t / 250, 1) * cosine(t // 100 / 10),
    ("positions", "as it is"): lambda t: cosine(t / T),
    ("positions", "Shift, 1 epoch later"): lambda t: cosine(max(t - 100, 0) / T),
    ("positions", "Over 20% to 80%"): lambda t: cosine(min(max(t - 200, 0) / 600, 1)),
    ("positions", "Scale, drops at batches 1000, 2000, ..."): lambda t: 0.5 ** (4 * t // 1000),
    ("previous-next", "start: previous"): lambda t: 0.7 ** (t // 200) if t < 600 else 0.343 * cosine((t - 600) / 400),
    ("previous-next", "end: next"): lambda t: 0.1 + (cosine(0.3) - 0.1) * t / 300 if t < 300 else cosine(t / T),
    ("combining", "Product"): lambda t: (0.3 + 0.7 * cosine(t / T)) * 0.5 ** (t // 400),
    ("combining", "Sum"): lambda t: 0.3 + 0.4 * cosine(t / T),
    ("combining", "Join"): lambda t: t // 50 / 6 if t < 300 else cosine((t // 50 * 50 - 300) / 700),
    ("clip", "Clip"): lambda t: max(0.5 ** (t // 200), 0.2),
    ("function", "by steps"): lambda t: float(np.interp(t, [0, 300, 600, 1000], [0, 1, 0.7, 0])),
    ("function", "by epochs, cumulative"): lambda t: math.prod(1 - 0.04 * n for n in range(1, t // 100 + 1)),
    ("plateau", "alone"): lambda t: 1 if t < 400 else 0.5 if t < 700 else 0.25,
    ("plateau", "with warm-up and decay"): lambda t: (
        (t / 100 if t < 100 else 1 - 0.5 * (t - 100) / 900) * (1 if t < 400 else 0.5 if t < 700 else 0.25)
    ),
}


@pytest.mark.parametrize(("name", "label"), FORMULAS, ids=[f"{a}: {b}" if b else a for a, b in FORMULAS])
def test_the_block_gives_the_formula(name, label):
    expected = [FORMULAS[name, label](t) for t in range(T)]
    np.testing.assert_allclose(curve(name, label), expected, rtol=1e-8, atol=1e-12)


def test_values():
    for level, (one, other) in {
        "0.3": (0.6, 0.3),
        "{absolute: 0.3}": (0.3, 0.3),
        "{scaled: 0.3}": (0.3, 0.15),
        "{optimizer: 0.3}": (0.6, 0.6),
    }.items():
        for group, (base, end) in enumerate([(2.0, one), (1.0, other)]):
            expected = base + (end - base) * np.arange(T) / T
            np.testing.assert_allclose(curve("values", f"end: {level}", group=group), expected, rtol=1e-12)


def test_cyclic_in_cosine_phases():
    for label, times, tops in (("three times", 3, [10, 10, 10]), ("three times, gamma 0.5", 3, [10, 5.5, 3.25])):
        expected = []
        for t in range(T):
            cycle, x = divmod(t * times / T, 1)
            top = tops[int(cycle)]
            expected.append(
                top + (1 - top) * cosine(x / 0.4) if x < 0.4 else 1e-4 + (top - 1e-4) * cosine((x - 0.4) / 0.6)
            )
        np.testing.assert_allclose(curve("cyclic-cosine-times", label), expected, rtol=1e-9)


def test_cyclic_in_cosine_phases_once():
    for option, first, top, last in (("lr", 1.0, 10.0, 1e-4), ("momentum", 0.95, 0.85, 0.95)):
        up = [top + (first - top) * cosine(t / 400) for t in range(400)]
        down = [last + (top - last) * cosine((t - 400) / 600) for t in range(400, T)]
        np.testing.assert_allclose(curve("cyclic-cosine", option=option), up + down, rtol=1e-9)


def test_restarts_with_warm_ups():
    expected = []
    for t in range(T):
        index, begin, length = next(c for c in ((2, 3, 4), (1, 1, 2), (0, 0, 1)) if 7 * t / T >= c[1])
        x = (7 * t / T - begin) / length
        shape = 0.05 + 0.95 * (x / 0.2 if x < 0.2 else cosine((x - 0.2) / 0.8))
        expected.append(0.8**index * shape)
    np.testing.assert_allclose(curve("restarts-warmup"), expected, rtol=1e-9)


def test_options_and_groups():
    t = np.arange(T)
    rise = np.array([1 - cosine(i / T) for i in range(T)])
    np.testing.assert_allclose(curve("options", option="weight_decay"), 0.04 + 0.36 * rise, rtol=1e-12)
    np.testing.assert_allclose(curve("options", option="beta2"), 0.95 + 0.049 * t / T, rtol=1e-12)
    np.testing.assert_allclose(curve("options", option="momentum"), np.minimum(0.85 + 0.1 * t / 300, 0.95), rtol=1e-12)
    divided = 0.9 / (0.95 + 0.05 * np.minimum(t / 200, 1))
    np.testing.assert_allclose(curve("momentum-warmup", option="momentum"), divided, rtol=1e-9)
    for group, expected in enumerate([0.04 + 0.36 * rise, 0 * t]):
        np.testing.assert_allclose(curve("keep-zero", "KeepZero", "weight_decay", group), expected, rtol=1e-12)
    follows = [0 if i < 300 else 0.5 * cosine(0.4) * (i - 300) / 100 if i < 400 else 0.5 * cosine(i / T) for i in t]
    np.testing.assert_allclose(curve("rule", group=0), follows, rtol=1e-9)
    np.testing.assert_allclose(curve("rule", group=1), [cosine(i / T) for i in t], rtol=1e-12, atol=1e-15)
    assert [curve("per-group", group=i).max() for i in range(2)] == [0.4, 1.0]


def test_noise_stays_within_its_limit_and_range():
    plain = np.array([cosine(t / T) for t in range(T)])
    factor = curve("noise") / plain
    assert np.abs(factor[:400] - 1).max() < 1e-9
    assert np.abs(factor[900:] - 1).max() < 1e-9
    assert 0.1 < np.abs(factor - 1).max() < 0.3


# ------------------------------------------------------------------ torch's own schedulers


def stepped(make, option="lr"):
    """The values of a group under a torch scheduler."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = make(optimizer)
    values = []
    for _ in range(T):
        values.append(optimizer.param_groups[0][option])
        optimizer.step()
        scheduler.step()
    return values


L = torch.optim.lr_scheduler
TORCH = {
    ("one-cycle", "two phases", "lr"): lambda o: L.OneCycleLR(o, 1.0, T),
    ("one-cycle", "two phases", "momentum"): lambda o: L.OneCycleLR(o, 1.0, T),
    ("one-cycle-three", "three phases", "lr"): lambda o: L.OneCycleLR(o, 1.0, T, three_phase=True),
    ("one-cycle-three", "three phases, linear", "lr"): lambda o: L.OneCycleLR(
        o, 1.0, T, three_phase=True, anneal_strategy="linear"
    ),
    ("cyclic", "triangular", "lr"): lambda o: L.CyclicLR(o, 0.1, 1.0, 100),
    ("cyclic", "triangular2", "lr"): lambda o: L.CyclicLR(o, 0.1, 1.0, 100, mode="triangular2"),
    ("cyclic", "exp_range", "lr"): lambda o: L.CyclicLR(o, 0.1, 1.0, 100, mode="exp_range", gamma=0.998),
    ("cosine-restarts", "equal periods", "lr"): lambda o: L.CosineAnnealingWarmRestarts(o, 250),
    ("combining", "Chain", "lr"): lambda o: L.ChainedScheduler(
        [L.CosineAnnealingLR(o, T, eta_min=0.3), L.StepLR(o, 400, gamma=0.5)]
    ),
}


@pytest.mark.parametrize(("name", "label", "option"), TORCH, ids=[f"{a}: {b}, {c}" for a, b, c in TORCH])
def test_the_block_gives_what_torch_does(name, label, option):
    expected = stepped(TORCH[name, label, option], option)
    np.testing.assert_allclose(curve(name, label, option), expected, rtol=1e-9, atol=1e-12)


def test_optax_linear_one_cycle():
    expected = np.interp(np.arange(T), [0, 300, 850, 1000], [1 / 25, 1, 1 / 25, 1 / 25 / 1e4])
    np.testing.assert_allclose(curve("one-cycle-three", "optax, linear"), expected, rtol=1e-9)


def test_every_block_is_checked_by_arithmetic():
    checked = {(name, label) for name, label, *_ in [*FORMULAS, *TORCH]} | {("one-cycle-three", "optax, linear")}
    left = {
        name for name, picture in PICTURES.items() for block in picture.blocks if (name, block.label) not in checked
    }
    in_tests_of_their_own = {"values", "cyclic-cosine", "cyclic-cosine-times", "restarts-warmup", "noise"}
    assert left == in_tests_of_their_own | {"options", "momentum-warmup", "keep-zero", "rule", "per-group"}
