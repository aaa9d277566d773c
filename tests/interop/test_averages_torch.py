"""``AveragedModel`` of torch as a spec: what the real one gave, and the real one beside it."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils
from torch.optim.swa_utils import AveragedModel

from lightning_solver import SolverError
from lightning_solver.averaging import EMA, SWA, UpdateBN
from lightning_solver.averaging.batch_norm import estimate_statistics
from lightning_solver.interop import from_torch
from lightning_solver.optimizer_spec import OptimizerSpec

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = json.loads((GOLDEN / "averages_torch.json").read_text())


def averages(config, **options):
    return from_torch(config, **options).spec.averages


def check_golden(case, average, rtol, atol, **run):
    """The average moves as the peer's did."""
    setting = case["setting"]
    dtype = getattr(torch, setting["dtype"])
    tensor = torch.tensor(setting["initial"], dtype=dtype)
    running = average.over([tensor], **run)
    for weights, value in zip(setting["weights"], case["values"], strict=True):
        tensor.copy_(torch.tensor(weights, dtype=dtype))
        running.update()
        expected = torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(running.values[0].double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("form", ["config", "config_py"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_torch_gave_the_same(case, form):
    ((name, average),) = averages(case[form], facts=case["setting"]).items()
    assert name == ("swa" if "AveragedModel(model)" in case["config_py"] else "ema")
    single = case["setting"]["dtype"] == "float32"
    check_golden(case, average, 0 if single else 1e-9, 1e-6 if single else 1e-12)


# ------------------------------------------------------------------ the two snippets of the notes

SWA_SNIPPET = """
loader, optimizer, model, loss_fn = ...
swa_model = torch.optim.swa_utils.AveragedModel(model)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=300)
swa_start = 160
swa_scheduler = SWALR(optimizer, swa_lr=0.05)
for epoch in range(300):
      for input, target in loader:
          optimizer.zero_grad()
          loss_fn(model(input), target).backward()
          optimizer.step()
      if epoch > swa_start:
          swa_model.update_parameters(model)
          swa_scheduler.step()
      else:
          scheduler.step()
# Update bn statistics for the swa_model at the end
torch.optim.swa_utils.update_bn(loader, swa_model)
# Use swa_model to make predictions on test data
preds = swa_model(test_input)
"""

EMA_SNIPPET = """
loader, optimizer, model, loss_fn = ...
ema_model = torch.optim.swa_utils.AveragedModel(model, \\
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
for epoch in range(300):
      for input, target in loader:
          optimizer.zero_grad()
          loss_fn(model(input), target).backward()
          optimizer.step()
          ema_model.update_parameters(model)
# Update bn statistics for the ema_model at the end
torch.optim.swa_utils.update_bn(loader, ema_model)
# Use ema_model to make predictions on test data
preds = ema_model(test_input)
"""

BATCHES = 2


def network():
    """The same network with batch norm at every call, and its data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).double()
    data = [(torch.randn(8, 4).double(), torch.randint(2, (8,))) for _ in range(BATCHES)]
    return model, data


def train_an_epoch(model, data, optimizer, after_step=lambda: None):
    for images, targets in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()
        after_step()


def ours(snippet, epochs):
    """The spec of a snippet, its network, and what is trained with, in a plain loop."""
    spec = from_torch(snippet).spec.replace(optimizer=OptimizerSpec("SGD", {"lr": 0.1}))
    model, data = network()
    optimizer, scheduler = spec.plan(model, total_steps=epochs * BATCHES, steps_per_epoch=BATCHES).build()
    ((_, average),) = spec.averages.items()
    running = average.over(model, total_steps=epochs * BATCHES, steps_per_epoch=BATCHES)
    return model, data, optimizer, scheduler, running


def compare_parameters(running, averaged):
    values = dict(zip(running.names, running.values, strict=True))
    for name, expected in averaged.module.named_parameters():
        torch.testing.assert_close(values[name], expected.detach(), rtol=1e-9, atol=1e-12)


def compare_after_training(model, data, running, averaged):
    """With the statistics estimated anew, the averaged modules are the same throughout."""
    assert running.average.update_bn is True
    swa_utils.update_bn(data, averaged)
    with running.swapped_in():
        estimate_statistics(model, data)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, averaged.module.state_dict()[name], rtol=1e-9, atol=1e-12)
        test = torch.randn(5, 4).double()
        torch.testing.assert_close(model.eval()(test), averaged.eval()(test), rtol=1e-9, atol=1e-12)


def test_the_equal_average_of_the_notes_is_that_of_torch_at_every_epoch():
    model, data = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averaged = AveragedModel(model)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=300)
    swa_scheduler = swa_utils.SWALR(optimizer, swa_lr=0.05)
    mine, my_data, my_optimizer, my_scheduler, running = ours(SWA_SNIPPET, 300)

    def step():
        my_scheduler.step()
        running.update()

    for epoch in range(300):
        (rate,), (my_rate,) = ([group["lr"] for group in one.param_groups] for one in (optimizer, my_optimizer))
        assert my_rate == pytest.approx(rate, rel=1e-9, abs=1e-12)
        train_an_epoch(model, data, optimizer)
        if epoch > 160:
            averaged.update_parameters(model)
            swa_scheduler.step()
        else:
            scheduler.step()
        train_an_epoch(mine, my_data, my_optimizer, step)
        assert running.begun == (epoch > 160) == bool(averaged.n_averaged)
        compare_parameters(running, averaged)
    assert running.count.updates == int(averaged.n_averaged) == 139
    compare_after_training(mine, my_data, running, averaged)


def test_the_exponential_average_of_the_notes_is_that_of_torch_at_every_epoch():
    epochs = 100
    model, data = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averaged = AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.999))
    mine, my_data, my_optimizer, _, running = ours(EMA_SNIPPET, epochs)
    for _ in range(epochs):
        train_an_epoch(model, data, optimizer, lambda: averaged.update_parameters(model))
        train_an_epoch(mine, my_data, my_optimizer, running.update)
        compare_parameters(running, averaged)
    compare_after_training(mine, my_data, running, averaged)


def test_nothing_of_the_two_snippets_is_left_out():
    swa = SWA(start="162ep", every="1ep", before="hold", buffers="copy", update_bn=True)
    assert averages(SWA_SNIPPET) == {"swa": swa}
    assert averages(EMA_SNIPPET) == {"ema": EMA(decay=0.999, buffers="copy", update_bn=True)}
    for snippet in (SWA_SNIPPET, EMA_SNIPPET):
        assert from_torch(snippet).unmapped == ()


# ------------------------------------------------------------------ forms


@pytest.mark.parametrize(
    "config",
    [
        "AveragedModel(model, avg_fn=get_ema_avg_fn(0.9))",
        "AveragedModel(model, None, None, swa_utils.get_ema_multi_avg_fn(decay=0.9))",
        {"average": "AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))"},
        {"AveragedModel": {"avg_fn": "get_ema_avg_fn(0.9)"}},
        {
            "class_path": "torch.optim.swa_utils.AveragedModel",
            "init_args": {"multi_avg_fn": "get_ema_multi_avg_fn(0.9)"},
        },
        "average = lambda old, new, count: 0.9 * old + new * 0.1\nmodel_ema = AveragedModel(model, avg_fn=average)",
        AveragedModel(nn.Linear(1, 1), avg_fn=swa_utils.get_ema_avg_fn(0.9)),
        {"ema_model": AveragedModel(nn.Linear(1, 1), multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))},
    ],
)
def test_forms(config):
    assert averages(config, strict=True) == {"ema": EMA(decay=0.9, buffers="copy")}


def test_the_default_decay_is_that_of_torch():
    assert averages("AveragedModel(model, avg_fn=get_ema_avg_fn())")["ema"].decay == 0.999


@pytest.mark.parametrize("function", ["avg_fn=get_swa_avg_fn()", "multi_avg_fn=swa_utils.get_swa_multi_avg_fn()"])
def test_the_functions_of_the_equal_average(function):
    assert averages(f"AveragedModel(model, {function})") == averages("AveragedModel(model)")


def test_buffers_and_the_device():
    read = averages("AveragedModel(model, device='cpu', use_buffers=True)")
    assert read == {"swa": SWA(start=1, every=1, device="cpu")}
    imported = from_torch("AveragedModel(model, device=device)")
    assert imported.spec.averages["swa"].device == "same"
    assert "device: is device; here the average lies beside the weights" in str(imported.notes)


def test_a_file(tmp_path):
    (tmp_path / "train.py").write_text(SWA_SNIPPET)
    assert averages(tmp_path / "train.py") == averages(SWA_SNIPPET)


def test_beside_schedulers_it_is_updated_after_swa_start():
    schedulers = ["CosineAnnealingLR(optimizer, T_max=300)", "SWALR(optimizer, swa_lr=0.05)"]
    config = {"schedulers": schedulers, "swa_start": 160, "average": "AveragedModel(model)"}
    swa = SWA(start="162ep", every="1ep", before="hold", buffers="copy")
    assert averages(config) == averages(config, facts={"step_on": "epoch"}) == {"swa": swa}
    by_step = averages(config, facts={"step_on": "step"})["swa"]
    assert (by_step.start, by_step.every) == (162, 1)


def test_steps_at_the_start_without_updates():
    read = averages("AveragedModel(model)", facts={"first_update": 10})
    assert read == {"swa": SWA(start=11, every=1, before="hold", buffers="copy")}
    with pytest.raises(SolverError, match=r"^facts\.first_update: must be a whole number"):
        from_torch("AveragedModel(model)", facts={"first_update": 2.5})


def test_several_averages_have_names_of_their_own():
    text = (
        "a = AveragedModel(model, avg_fn=get_ema_avg_fn(0.9))\nb = AveragedModel(model)\n"
        "c = AveragedModel(model, avg_fn=get_ema_avg_fn(0.99))"
    )
    read = averages(text, strict=True)
    assert {name: average.evaluated for name, average in read.items()} == {"ema": True, "swa": False, "ema_2": False}
    assert read["ema_2"].decay == 0.99


# ------------------------------------------------------------------ where a script updates it

LOOPS = {
    "every step": ("for x in loader:\n    model_ema.update_parameters(model)", {}),
    "every step of epochs": (
        "for epoch in range(9):\n    for x in loader:\n        model_ema.update_parameters(model)",
        {},
    ),
    "every epoch, trained elsewhere": (
        "for epoch in range(9):\n    train(model)\n    model_ema.update_parameters(model)",
        {"start": "1ep", "every": "1ep", "before": "hold"},
    ),
    "from an epoch on": (
        "begin = 3\nfor i in range(9):\n    for x in loader:\n        f(x)\n    if i >= begin:\n"
        "        model_ema.update_parameters(model)",
        {"start": "4ep", "every": "1ep", "before": "hold"},
    ),
    "epochs counted from 1": (
        "for epoch in range(1, 9):\n    for x in loader:\n        f(x)\n    if epoch > 3:\n"
        "        model_ema.update_parameters(model)",
        {"start": "4ep", "every": "1ep", "before": "hold"},
    ),
    "the steps of later epochs": (
        "for epoch in range(9):\n    for x in loader:\n        if epoch >= 3:\n"
        "            model_ema.update_parameters(model)",
        {"start": "3ep+1st", "before": "hold"},
    ),
    "later steps": (
        "for step in range(900):\n    if step >= 100:\n        model_ema.update_parameters(model)",
        {"start": 101, "before": "hold"},
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_where_a_script_updates_it(name):
    loop, expected = LOOPS[name]
    text = f"model_ema = AveragedModel(model, avg_fn=get_ema_avg_fn(0.9))\n{loop}\n"
    per = {"decay_per": "update"} if "every" in expected else {}
    assert averages(text, strict=True) == {"ema": EMA(decay=0.9, buffers="copy", **expected, **per)}


@pytest.mark.parametrize(
    "guard",
    ["step % 10 == 0", "step > first()", "step != 3", "ready", "step > 3 and ready", "other > 3"],
)
def test_a_condition_that_is_not_understood_is_named(guard):
    text = f"m = AveragedModel(model)\nfor step in range(9):\n    if {guard}:\n        m.update_parameters(model)"
    imported = from_torch(text)
    assert imported.unmapped == ("m.update_parameters",)
    assert any(guard in note for note in imported.notes)
    with pytest.raises(SolverError, match=r"^m\.update_parameters: is not mapped"):
        from_torch(text, strict=True)


def test_statistics_in_a_loop_are_for_validations():
    text = (
        "m = AveragedModel(model)\nfor epoch in range(9):\n    for x in loader:\n        m.update_parameters(model)\n"
        "    update_bn(loader, m)\n    validate(m)"
    )
    assert averages(text)["swa"].update_bn == UpdateBN(at="validation")


# ------------------------------------------------------------------ what is not read


def test_a_function_of_ones_own_is_noted():
    for function in ("mine", "lambda a, b, n: a + b", "lambda a, b, n: 0.9 * a + 0.2 * b"):
        imported = from_torch(f"AveragedModel(model, avg_fn={function})")
        assert imported.spec.averages == {}
        assert imported.unmapped == ("config.avg_fn",)
        assert any("is a function that is never evaluated" in note for note in imported.notes)
        with pytest.raises(SolverError, match=r"^config\.avg_fn: is not mapped"):
            from_torch(f"AveragedModel(model, avg_fn={function})", strict=True)


def test_an_argument_that_torch_does_not_have():
    imported = from_torch("AveragedModel(model, use_bufers=True)")
    assert imported.unmapped == ("config.use_bufers",)
    assert "did you mean use_buffers?" in str(imported.notes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("AveragedModel(model, None, get_ema_avg_fn(0.9), get_swa_multi_avg_fn())", "has two functions"),
        ("AveragedModel(model, avg_fn=get_ema_avg_fn(1.5))", r"avg_fn\.decay: must be from 0 to 1"),
        ("AveragedModel(model, avg_fn=get_ema_avg_fn('a'))", r"avg_fn\.decay: must be a number"),
        ("AveragedModel(model, use_buffers=3)", "must be true or false"),
        ("AveragedModel(model, use_buffers=flag)", "is not a literal"),
    ],
)
def test_what_torch_refuses(config, message):
    with pytest.raises(SolverError, match=message):
        from_torch(config)


def test_an_average_that_has_moved_is_refused():
    model = nn.Linear(1, 1)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    with pytest.raises(SolverError, match="has been updated; got AveragedModel, n_averaged=1"):
        from_torch(averaged)
