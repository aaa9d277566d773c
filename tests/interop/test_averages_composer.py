"""``EMA`` and ``SWA`` of Composer as a spec: what the real ones gave, and their manner worked out here, event by event."""

import json
from pathlib import Path

import pytest
import torch

from lightning_solver import SolverError
from lightning_solver.averaging import EMA, SWA
from lightning_solver.interop import from_composer

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = json.loads((GOLDEN / "averages_composer.json").read_text())
EPOCH, EPOCHS = 12, 4
RUN = {"iters_per_epoch": EPOCH, "total_iters": EPOCH * EPOCHS}


def averages(config, facts=None, **options):
    return from_composer(config, facts=facts, **options).spec.averages


def moved(average, weights, initial=0.0, **run):
    """The values of an average after every step."""
    tensor = torch.full((1,), initial, dtype=torch.float64)
    running, values = average.over([tensor], **run), []
    for weight in weights:
        tensor.fill_(weight)
        running.update()
        values.append(running.values[0].item())
    return values


@pytest.mark.parametrize("known", [{}, {"total_steps": 48}], ids=["by itself", "in a run"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_composer_gave_the_same(case, known):
    setting = case["setting"]
    ((name, average),) = averages(case["config"], facts=setting).items()
    assert name == "ema"
    for i, initial in enumerate(setting["initial"]):
        weights, expected = ([row[i] for row in rows] for rows in (setting["weights"], case["values"]))
        assert moved(average, weights, initial, **known) == pytest.approx(expected, rel=1e-9, abs=1e-12)


# ------------------------------------------------------------------ the algorithms, event by event


def parsed(text):
    unit = text.lstrip("0123456789.")
    return float(text.removesuffix(unit)), unit


def events(by_epoch):
    """Batches so far, and whether the time of an algorithm has come: the clock counts whole epochs once they are over."""
    for batch in range(1, EPOCH * EPOCHS + 1):
        if not by_epoch:
            yield batch, batch, (batch - 1) // EPOCH
        elif batch % EPOCH == 0:
            yield batch, batch, batch // EPOCH


def reached(text, batch, epoch, longest):
    value, unit = parsed(text)
    now = {"ba": batch, "ep": epoch, "dur": epoch / EPOCHS if longest.endswith("ep") else batch / (EPOCH * EPOCHS)}
    return value <= now[unit]


def ema_of(weights, longest, half_life="1000ba", smoothing=None, ema_start="0.0dur", update_interval=None):
    """The values of Composer's EMA after every batch at which it is asked."""
    interval, unit = parsed(update_interval or "1" + parsed(half_life)[1])
    if smoothing is None:
        smoothing = 2 ** (-interval / parsed(half_life)[0])
    average, values = None, {}
    for batch, _, epoch in events(unit == "ep"):
        weight = weights[batch - 1]
        if average is None and reached(ema_start, batch, epoch, longest):
            average = weight
        if average is not None and (epoch if unit == "ep" else batch) % interval == 0:
            average = average * smoothing + weight * (1 - smoothing)
        if average is not None:
            values[batch] = average
    return values


def swa_of(weights, longest, swa_start="0.7dur", swa_end="0.97dur", update_interval="1ep"):
    """The values of Composer's SWA after every batch at which it is asked, and whether it has ended."""
    interval, unit = parsed(update_interval)
    taken, values, calls = [], {}, 0
    for batch, _, epoch in events(unit == "ep"):
        if not reached(swa_start, batch, epoch, longest):
            continue
        if calls % interval == 0:
            taken.append(weights[batch - 1])
        calls += 1
        values[batch] = sum(taken) / len(taken)
        if reached(swa_end, batch, epoch, longest):
            return values, True
    return values, False


WEIGHTS = torch.randn(EPOCH * EPOCHS, generator=torch.Generator().manual_seed(3)).double().tolist()
LONGEST = {"epochs": "4ep", "batches": "48ba"}
EMAS = {
    "half-life": {"half_life": "5ba"},
    "every other batch": {"half_life": "6ba", "update_interval": "2ba"},
    "every third batch": {"half_life": "6ba", "update_interval": "3ba"},
    "every fifth batch": {"half_life": "6ba", "update_interval": "5ba"},
    "begun on an update": {"half_life": "6ba", "update_interval": "5ba", "ema_start": "10ba"},
    "begun right before an update": {"half_life": "6ba", "update_interval": "5ba", "ema_start": "9ba"},
    "begun between updates": {"half_life": "6ba", "update_interval": "5ba", "ema_start": "11ba"},
    "begun after a batch": {"half_life": "6ba", "ema_start": "7ba"},
    "begun after an epoch": {"half_life": "6ba", "ema_start": "2ep"},
    "begun after a share": {"half_life": "6ba", "ema_start": "0.3dur"},
    "begun after a share, between updates": {"half_life": "6ba", "ema_start": "0.3dur", "update_interval": "7ba"},
    "smoothing": {"half_life": None, "smoothing": 0.7, "update_interval": "1ba"},
    "smoothing every third batch": {"half_life": None, "smoothing": 0.7, "update_interval": "3ba"},
    "epochs": {"half_life": "2ep"},
    "epochs from a batch on": {"half_life": "2ep", "ema_start": "13ba"},
    "epochs from a share on": {"half_life": "2ep", "ema_start": "0.5dur"},
    "every other epoch": {"half_life": "2ep", "update_interval": "2ep"},
    "every other epoch from the second on": {"half_life": "2ep", "update_interval": "2ep", "ema_start": "2ep"},
    "smoothing over epochs": {"half_life": None, "smoothing": 0.7, "update_interval": "1ep"},
}


@pytest.mark.parametrize("longest", [*LONGEST, "by facts"])
@pytest.mark.parametrize("name", EMAS)
def test_ema_at_every_event(name, longest):
    """A run of whole epochs, of which only facts tell, is taken to be given in them."""
    config = {"algorithms": [{"type": "EMA", **EMAS[name]}]}
    facts = RUN
    if longest in LONGEST:
        config["max_duration"], facts = LONGEST[longest], {"iters_per_epoch": EPOCH}
    average = averages(config, facts, strict=True)["ema"]
    values = moved(average, WEIGHTS, total_steps=48, steps_per_epoch=EPOCH)
    expected = ema_of(WEIGHTS, LONGEST.get(longest, "4ep"), **EMAS[name])
    assert expected
    assert {batch: values[batch - 1] for batch in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


SWAS = {
    "default": {},
    "epochs": {"swa_start": "1ep", "swa_end": "3ep"},
    "every other epoch": {"swa_start": "1ep", "swa_end": "4ep", "update_interval": "2ep"},
    "every other epoch, even": {"swa_start": "2ep", "swa_end": "4ep", "update_interval": "2ep"},
    "batches": {"swa_start": "0.5dur", "swa_end": "0.75dur", "update_interval": "1ba"},
    "every fifth batch": {"swa_start": "0.5dur", "swa_end": "0.75dur", "update_interval": "5ba"},
    "every fifth batch to the end": {"swa_start": "0.5dur", "swa_end": "1dur", "update_interval": "5ba"},
    "all": {"swa_start": "0dur", "swa_end": "1dur"},
}


@pytest.mark.parametrize("longest", LONGEST)
@pytest.mark.parametrize("name", SWAS)
def test_swa_at_every_event(name, longest):
    config = {"algorithms": {"type": "SWA", **SWAS[name]}, "max_duration": LONGEST[longest]}
    imported = from_composer(config, facts={"iters_per_epoch": EPOCH})
    average = imported.spec.averages["swa"]
    values = moved(average, WEIGHTS, total_steps=48, steps_per_epoch=EPOCH)
    expected, ended = swa_of(WEIGHTS, LONGEST[longest], **SWAS[name])
    assert {batch: values[batch - 1] for batch in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    latest = max(expected)
    assert values[latest - 1 :] == [values[-1]] * (49 - latest), "nothing moves once it has ended"
    assert (imported.unmapped == ("algorithms.swa_end",)) == (ended and latest < 48)


def test_an_epoch_that_is_cut_short_has_no_end():
    """Of 40 batches, 36 make epochs: the share of the run is 0.9 at the end of the last one."""
    config = {"algorithms": "SWA('0.5dur', '1dur')", "max_duration": "40ba"}
    imported = from_composer(config, facts={"iters_per_epoch": EPOCH}, strict=True)
    average = imported.spec.averages["swa"]
    assert (average.start, average.until) == ("2ep", "3ep")
    values = moved(average, WEIGHTS[:40], total_steps=40, steps_per_epoch=EPOCH)
    assert values[-1] == pytest.approx((WEIGHTS[23] + WEIGHTS[35]) / 2)
    assert any("Composer never uses the average" in note for note in imported.notes)
    earlier = from_composer({**config, "algorithms": "SWA('0.5dur', '0.9dur')"}, facts={"iters_per_epoch": EPOCH})
    assert earlier.unmapped == ("algorithms.swa_end",)


# ------------------------------------------------------------------ what a human would write


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"type": "EMA"}, {"ema": EMA(half_life=1000)}),
        ("EMA(half_life='500ba', update_interval='1ba')", {"ema": EMA(half_life=500)}),
        ("EMA('2ep')", {"ema": EMA(half_life="2ep", start="1ep", every="1ep", before="hold")}),
        ("EMA(ema_start='0.25dur')", {"ema": EMA(half_life=1000, start="25%+1st", before="hold")}),
        ("EMA(ema_start='10ep')", {"ema": EMA(half_life=1000, start="10ep+1st", before="hold")}),
        ("EMA(None, 0.99, update_interval='1ba')", {"ema": EMA(decay=0.99)}),
        (
            "EMA(half_life=None, smoothing=0.99, update_interval='2ba')",
            {"ema": EMA(decay=0.99, decay_per="update", every=2, every_from="run")},
        ),
        (
            {"algorithms": "SWA(swa_start='0.7dur', swa_end='1dur')"},
            {"swa": SWA(start="70%", every="1ep", before="hold", buffers="copy")},
        ),
        (
            {"algorithms": ["SWA(swa_start='6ep', swa_end='8ep')"], "max_duration": "10ep"},
            {"swa": SWA(start="6ep", every="1ep", until="8ep", before="hold", buffers="copy")},
        ),
        (
            {"algorithms": ["SWA()"], "max_duration": "10ep"},
            {"swa": SWA(start="7ep", every="1ep", before="hold", buffers="copy")},
        ),
    ],
)
def test_the_native_form(config, expected):
    assert averages(config) == expected


FORMS = [
    "Trainer(model=model, max_duration='10ep', algorithms=[EMA(half_life='500ba')])",
    "from composer.algorithms import EMA\nalgorithm = EMA(half_life='500ba')\n"
    "trainer = Trainer(model=model, max_duration='10ep', algorithms=[algorithm])",
    {"algorithms": [{"type": "EMA", "half_life": "500ba"}], "max_duration": "10ep"},
    {"algorithms": {"ema": {"half_life": "500ba"}}, "max_duration": "10ep"},
    {"algorithms": {"EMA": {"half_life": "500ba"}}, "max_duration": "10ep"},
    {"algorithms": "EMA(half_life='500ba')", "max_duration": "10ep"},
    {"EMA": {"half_life": "500ba"}},
]


@pytest.mark.parametrize("config", FORMS)
def test_forms(config):
    assert averages(config)["ema"] == EMA(half_life=500)


@pytest.mark.parametrize("schedulers", ["LinearScheduler()", "StepLR(optimizer, 3)"])
def test_beside_schedulers_and_an_optimiser(schedulers):
    config = {
        "schedulers": schedulers,
        "optimizers": "DecoupledSGDW(model.parameters(), lr=0.1)",
        "algorithms": ["EMA(half_life='500ba')"],
        "max_duration": "10ep",
    }
    spec = from_composer(config, strict=True).spec
    assert spec.averages == {"ema": EMA(half_life=500)}
    assert spec.optimizer is not None
    assert "lr" in spec.schedules


def test_schedulers_and_algorithms_in_one_text():
    spec = from_composer("LinearScheduler()\nEMA(half_life='500ba')").spec
    assert spec.averages == {"ema": EMA(half_life=500)}
    assert "lr" in spec.schedules


def test_of_both_the_exponential_one_is_validated():
    read = averages({"algorithms": ["SWA(swa_end='1dur')", "EMA()"]})
    assert {name: average.evaluated for name, average in read.items()} == {"swa": False, "ema": True}


def test_scaled_by_the_ratio():
    config = {"algorithms": ["SWA('4ep', '5ep')"], "max_duration": "10ep", "scale_schedule_ratio": 0.5}
    config["schedulers"] = "LinearScheduler()"
    assert averages(config, strict=True)["swa"].until is None, "the run is 5 epochs long"


# ------------------------------------------------------------------ what is not mapped


def test_other_algorithms_are_noted_beside():
    imported = from_composer({"algorithms": ["EMA()", "SAM(rho=0.05)"], "max_duration": "9ba"})
    assert list(imported.spec.averages) == ["ema"]
    assert imported.unmapped == ("algorithms",)


def test_training_that_goes_on_from_the_average_is_noted():
    imported = from_composer({"algorithms": "SWA('6ep', '8ep')", "max_duration": "10ep"})
    assert imported.unmapped == ("algorithms.swa_end",)
    assert "here it goes on from its own weights" in str(imported.notes)


def test_its_own_learning_rate_is_noted():
    imported = from_composer({"algorithms": "SWA('6ep', '10ep', schedule_swa_lr=True)", "max_duration": "10ep"})
    assert imported.unmapped == ("algorithms.schedule_swa_lr",)
    silent = from_composer({"algorithms": "SWA('6ep', '10ep', swa_lr=0.1)", "max_duration": "10ep"}, strict=True)
    assert any("swa_lr: has no effect" in note for note in silent.notes)


def test_an_argument_that_composer_does_not_have():
    imported = from_composer({"algorithms": ["EMA(half_live='3ba')"], "max_duration": "9ba"})
    assert imported.unmapped == ("algorithms[0].half_live",)
    assert "did you mean half_life?" in str(imported.notes)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("EMA(smoothing=0.9)", r"algorithms\.half_life: is given \(1000ba by default\) beside smoothing"),
        ("EMA(half_life=None)", "and smoothing are both missing"),
        ("EMA(half_life=None, smoothing=0.9)", "update_interval: is missing, without which Composer fails"),
        ("EMA(half_life=None, smoothing=1.9, update_interval='1ba')", "smoothing: must be from 0 to 1"),
        ("EMA(half_life='1ep', update_interval='1ba')", "must have the same unit; got 1ep and 1ba"),
        ("EMA(half_life='0ba')", "half_life: is nothing"),
        ("EMA(half_life='5ba', update_interval='0ba')", "update_interval: is nothing"),
        ("EMA(half_life='5sp')", "update_interval: must be in batches or epochs"),
        ("EMA(ema_start='1.5dur')", "ema_start: lies beyond the end of the run"),
        ("EMA(ema_start='soon')", "ema_start: is not a time of Composer"),
        ("EMA(half_life=life)", "half_life: is not a literal"),
        ("SWA('5ep', '0.9dur')", "must be after swa_start and in its unit; got 5ep and 0.9dur"),
        ("SWA('0.9dur', '0.8dur')", "must be after swa_start"),
        ("SWA('500ba', '600ba')", "swa_start: must be a share of the run or in epochs"),
        ("SWA(update_interval='4sp', swa_end='1dur')", "must be in batches or epochs"),
        ("SWA(anneal_steps=0)", "anneal_steps: must be above 0"),
        ("SWA(anneal_strategy='poly')", "anneal_strategy: unknown value"),
        ("SWA()", r"swa_end: falls onto some epoch's end.*give facts=.*epochs"),
        (["EMA()", "EMA()"], r"algorithms\[1\]: is the second of its kind"),
    ],
)
def test_what_is_refused(algorithm, message):
    with pytest.raises(SolverError, match=message):
        from_composer({"algorithms": algorithm})


def test_an_algorithm_itself_is_refused():
    made = type("EMA", (), {})()
    with pytest.raises(SolverError, match="is an object; got EMA; give its arguments"):
        from_composer({"algorithms": [made]})
