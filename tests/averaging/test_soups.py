"""Averages of checkpoints: uniform, weighted and greedy, and the files that they are read from and written to."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_solver import SolverError
from lightning_solver.averaging import mixing
from lightning_solver.averaging.files import ORIGIN_KEY, find_weights, read_weights, write_file
from lightning_solver.averaging.soups import greedy_soup, uniform_soup


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).to(torch.bfloat16))
    net.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    net[1].num_batches_tracked.fill_(10 * seed)
    return net


def lightning(state: Any, step: int, **more: Any) -> dict[str, Any]:
    head = {"epoch": step // 10, "global_step": step, "pytorch-lightning_version": "2.6.0", "state_dict": state}
    training = {"optimizer_states": [{}], "lr_schedulers": [{}], "loops": {}, "callbacks": {}, "MixedPrecision": {}}
    own = {"lightning_solver_parts": {"names": []}, "lightning_solver_averages": {"live": torch.zeros(2)}}
    return {**head, **training, **own, "hyper_parameters": {"width": 4}, "vocabulary": ["a"], **more}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.ckpt" for name in "abc"]
    for seed, path in enumerate(paths):
        torch.save(lightning(model(seed).state_dict(), 100 * (seed + 1)), path)
    return paths


@pytest.fixture
def numbers(tmp_path: Path) -> Any:
    """Writes files that hold one number each."""

    def write(*values: float) -> list[Path]:
        for i, value in enumerate(values):
            torch.save({"state_dict": {"weight": torch.tensor([value], dtype=torch.float64)}}, tmp_path / f"{i}.ckpt")
        return [tmp_path / f"{i}.ckpt" for i in range(len(values))]

    return write


def expected(states: list[Any], name: str, weights: list[float]) -> Tensor:
    total = sum(weights)
    return sum(state[name].double() * (weight / total) for state, weight in zip(states, weights))


# ------------------------------------------------------------------ the average


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 1.0], [0.0, 3.0, 7.0]])
@pytest.mark.parametrize("chunk", [1, 5, 10**6])
def test_floating_tensors_are_averaged_in_float64_and_rounded_once(
    files: list[Path], weights: list[float] | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing, "_CHUNK", chunk)
    soup = uniform_soup(files, weights=weights)
    states = [model(seed).state_dict() for seed in range(3)]
    for name, value in soup.state_dict.items():
        if name not in ("1.num_batches_tracked", "mask"):
            exact = expected(states, name, weights or [1.0, 1.0, 1.0])
            assert torch.equal(value, exact.to(value.dtype)), name
            assert value.dtype == states[0][name].dtype


def test_whole_numbers_are_those_of_the_last_file(files: list[Path]) -> None:
    assert uniform_soup(files).state_dict["1.num_batches_tracked"].item() == 20
    assert uniform_soup(files[::-1]).state_dict["1.num_batches_tracked"].item() == 0


def test_what_is_the_same_everywhere_stays_to_the_last_bit(tmp_path: Path) -> None:
    same = {"mask": torch.tensor([0.0, -torch.inf]), "third": torch.full((5,), 1 / 3, dtype=torch.float64)}
    for i in range(7):
        torch.save({**same, "other": torch.tensor([float(i)])}, tmp_path / f"{i}.pt")
    soup = uniform_soup([tmp_path / f"{i}.pt" for i in range(7)], weights=[0.1, 0.2, 0.3, 0.7, 0.11, 0.13, 0.17])
    assert all(torch.equal(soup.state_dict[name], value) for name, value in same.items())


def test_numbers_that_are_the_same_in_a_tensor_that_changes_stay_to_the_last_bit(tmp_path: Path) -> None:
    for i in range(6):
        row = torch.full((1000,), 0.1)
        row[0] = i
        torch.save({"weight": row}, tmp_path / f"{i}.pt")
    weight = uniform_soup([tmp_path / f"{i}.pt" for i in range(6)]).state_dict["weight"]
    assert torch.equal(weight[1:], torch.full((999,), 0.1))
    assert weight[0] == 2.5


def test_the_result_does_not_depend_on_the_file_that_it_was_read_from(files: list[Path]) -> None:
    soup = uniform_soup(files)
    before = {name: value.clone() for name, value in soup.state_dict.items()}
    soup.save(files[-1], force=True)
    assert all(torch.equal(soup.state_dict[name], value) for name, value in before.items())
    again = torch.load(files[-1], weights_only=True)["state_dict"]
    assert all(torch.equal(again[name], value) for name, value in before.items())


def test_complex_numbers_and_other_layouts_are_averaged(tmp_path: Path) -> None:
    for i in range(2):
        last = torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last) * (i + 1)
        torch.save(
            {"c": torch.tensor([1j * i, 2.0]), "last": last, "t": torch.eye(3)[:2].t() * i}, tmp_path / f"{i}.pt"
        )
    state = uniform_soup([tmp_path / "0.pt", tmp_path / "1.pt"]).state_dict
    assert torch.equal(state["c"], torch.tensor([0.5j, 2.0]))
    assert torch.equal(state["last"], torch.arange(24.0).reshape(2, 3, 2, 2) * 1.5)
    assert torch.equal(state["t"], torch.eye(3)[:2].t() * 0.5)


def test_tied_tensors_are_one_in_the_result(tmp_path: Path) -> None:
    for i in range(2):
        weight = torch.full((1000,), float(i))
        torch.save({"a": weight, "b": weight, "apart": weight.clone()}, tmp_path / f"{i}.pt")
    soup = uniform_soup([tmp_path / "0.pt", tmp_path / "1.pt"])
    assert soup.state_dict["a"].data_ptr() == soup.state_dict["b"].data_ptr()
    assert soup.state_dict["a"].data_ptr() != soup.state_dict["apart"].data_ptr()
    assert os.path.getsize(soup.save(tmp_path / "soup.pt")) < 10_500


def test_versions_of_modules_are_kept(files: list[Path]) -> None:
    """Without them, ``load_state_dict`` takes the state for one of an old torch."""
    assert uniform_soup(files).state_dict._metadata["1"] == {"version": 2}  # type: ignore[attr-defined]


def test_extra_states_are_those_of_the_last_file(tmp_path: Path) -> None:
    for i in range(2):
        torch.save(
            {"w": torch.ones(1) * i, "a._extra_state": {"n": i}, "_extra_state": torch.ones(i)}, tmp_path / str(i)
        )
    state = uniform_soup([tmp_path / "0", tmp_path / "1"]).state_dict
    assert state["a._extra_state"] == {"n": 1}
    assert state["_extra_state"].shape == (1,)


def test_files_of_old_torch_are_read(tmp_path: Path) -> None:
    for i in range(2):
        torch.save({"w": torch.ones(1) * i}, tmp_path / str(i), _use_new_zipfile_serialization=False)
    assert uniform_soup([tmp_path / "0", tmp_path / "1"]).state_dict["w"].item() == 0.5


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": None}, "odd.ckpt: has no 0.weight, which .*c.ckpt has; average files of the same model"),
        ({"0.weight": None, "0.bias": None}, "odd.ckpt: has no 0.weight and 1 more, which .*c.ckpt has"),
        ({"more": torch.ones(1)}, "c.ckpt: has no more, which .*odd.ckpt has"),
        (
            {"0.weight": torch.ones(5, 3)},
            r"odd.ckpt: 0.weight: has another shape; got \(5, 3\), and \(4, 3\) in .*c.ckpt; average files of the same",
        ),
        ({"0.weight": torch.ones(4, 3).half()}, "odd.ckpt: 0.weight: has another type; got torch.float16, and torch.f"),
        ({"0.weight": torch.ones(4, 3).to_sparse()}, "odd.ckpt: 0.weight: is not dense; got torch.sparse_coo"),
    ],
)
def test_files_of_different_models_are_refused(
    files: list[Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    state = {**model(0).state_dict(), **change}
    torch.save({"state_dict": {k: v for k, v in state.items() if v is not None}}, tmp_path / "odd.ckpt")
    with pytest.raises(SolverError, match=message):
        uniform_soup([tmp_path / "odd.ckpt", *files])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "weights: are not one for each of 3 files; got 1 2; give one for each file"),
        ([1.0, -1.0, 1.0], "weights: must be >= 0, and not all 0; got 1 -1 1; correct them"),
        ([0.0, 0.0, 0.0], "weights: must be >= 0, and not all 0"),
        ([1.0, float("nan"), 1.0], "weights: must be >= 0, and not all 0"),
    ],
)
def test_weights_that_cannot_be(files: list[Path], weights: list[float], message: str) -> None:
    with pytest.raises(SolverError, match=message):
        uniform_soup(files, weights=weights)


def test_one_file_is_no_average(files: list[Path]) -> None:
    with pytest.raises(SolverError, match=r"files: an average needs at least two; got .*a.ckpt; give more"):
        uniform_soup(files[:1])


def test_a_file_counts_once(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SolverError, match=r"a.ckpt: is given twice; give it once; weights say how much it counts"):
        uniform_soup([files[0], files[1], files[0]])
    (tmp_path / "link.ckpt").symlink_to(files[0])
    with pytest.raises(SolverError, match=r"link.ckpt: is the same file as .*a.ckpt"):
        uniform_soup([files[0], tmp_path / "link.ckpt"])


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ([torch.ones(1)], None, "x.ckpt: holds no mapping; got list; give a checkpoint or a state_dict"),
        ({"model": {"w": torch.ones(1)}}, None, "x.ckpt: has no state_dict; say where the weights are by --key: known"),
        (
            {"model": {"w": torch.ones(1)}},
            "modl",
            "x.ckpt: has no modl; say where the .* by --key: did you mean model?",
        ),
        ({"state_dict": {"epoch": 1}}, None, "x.ckpt: has no state_dict under state_dict; got keys epoch; say where"),
        ({"state_dict": 1}, None, "x.ckpt: has no state_dict under state_dict; got int"),
        ({"a": {"b": 1}}, "a.b.c", "x.ckpt: has no a.b.c"),
        (
            {"state_dict": {"w": torch.ones(1)}, "p": Path("x")},
            None,
            "holds a pathlib.*, which weights_only=True refuses",
        ),
    ],
)
def test_files_without_weights(tmp_path: Path, content: Any, key: str | None, message: str) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(SolverError, match=message):
        read_weights(tmp_path / "x.ckpt", key)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SolverError, match=r"no.ckpt: is not a file; give a checkpoint, or a folder with checkpoints"):
        read_weights(tmp_path / "no.ckpt")
    (tmp_path / "text.ckpt").write_text("text")
    with pytest.raises(SolverError, match=r"text.ckpt: cannot be read: IndexError; give a checkpoint, or"):
        read_weights(tmp_path / "text.ckpt")
    with pytest.raises(SolverError, match="is a folder; name a file"):
        read_weights(tmp_path)
    (tmp_path / ".metadata").touch()
    with pytest.raises(SolverError, match="is a sharded checkpoint; make one file of it"):
        find_weights([tmp_path])


# ------------------------------------------------------------------ where the weights are


def test_a_key_says_where_the_weights_are(tmp_path: Path) -> None:
    for i in range(2):
        torch.save({"ema": {"model": {"w": torch.ones(1) * i}}, "optimizer": {}}, tmp_path / f"{i}.pt")
    soup = uniform_soup([tmp_path / "0.pt", tmp_path / "1.pt"], key="ema.model")
    saved = torch.load(soup.save(tmp_path / "soup.pt"), weights_only=True)
    assert saved["ema"]["model"]["w"].item() == 0.5
    assert set(saved) == {"ema", ORIGIN_KEY}


def test_a_state_dict_by_itself_gives_one_by_itself(tmp_path: Path) -> None:
    for i in range(2):
        torch.save(model(i).state_dict(), tmp_path / f"{i}.pt")
    path = uniform_soup([tmp_path / "0.pt", tmp_path / "1.pt"]).save(tmp_path / "soup.pt")
    model(3).load_state_dict(torch.load(path, weights_only=True), strict=True)
    origin = read_weights(path).origin
    assert origin is not None
    assert origin["files"] == [str(tmp_path / "0.pt"), str(tmp_path / "1.pt")]


def test_a_lightning_checkpoint_stays_one_without_the_state_of_its_training(files: list[Path], tmp_path: Path) -> None:
    soup = uniform_soup(files, weights=[1, 1, 2])
    saved = torch.load(soup.save(tmp_path / "soup.ckpt"), weights_only=True)
    kept = {"epoch", "global_step", "pytorch-lightning_version", "hyper_parameters", "vocabulary"}
    assert set(saved) == {*kept, "state_dict", ORIGIN_KEY}
    assert saved["global_step"] == 300
    assert saved[ORIGIN_KEY] == {"kind": "soup", "files": [str(path) for path in files], "shares": [0.25, 0.25, 0.5]}
    assert isinstance(saved["state_dict"], OrderedDict)


# ------------------------------------------------------------------ folders


def test_a_folder_is_taken_by_steps(tmp_path: Path) -> None:
    for name, step in (("z", 5), ("a", 30), ("m", 20)):
        torch.save(lightning({"w": torch.ones(1) * step}, step), tmp_path / f"{name}.ckpt")
    assert [file.step for file in find_weights([tmp_path]).files] == [5, 20, 30]
    assert uniform_soup(str(tmp_path), last=2).state_dict["w"].item() == 25.0


def test_a_folder_without_steps_is_taken_by_the_numbers_in_the_names(tmp_path: Path) -> None:
    for step in (10, 9, 100):
        torch.save({"w": torch.ones(1) * step}, tmp_path / f"step={step}.pt")
    found = find_weights([tmp_path], pattern="*.pt", last=2)
    assert [file.path.name for file in found.files] == ["step=10.pt", "step=100.pt"]


def test_averages_and_copies_of_the_last_file_are_left_out_and_told(files: list[Path], tmp_path: Path) -> None:
    uniform_soup(files).save(tmp_path / "soup.ckpt")
    (tmp_path / "last.ckpt").write_bytes(files[-1].read_bytes())
    found = find_weights([tmp_path])
    assert [file.path for file in found.files] == files
    assert found.notes == (
        f"{tmp_path / 'soup.ckpt'}: left out, as it is an average of files",
        f"{tmp_path / 'last.ckpt'}: left out, as c.ckpt is of the same step",
    )
    files[-1].unlink()
    assert [file.path.name for file in find_weights([tmp_path]).files] == ["a.ckpt", "b.ckpt", "last.ckpt"]


def test_folders_and_numbers_that_do_not_fit(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SolverError, match=r"has no checkpoints \(\*.pth\); got nothing; give another folder"):
        find_weights([tmp_path], pattern="*.pth")
    with pytest.raises(SolverError, match="last: is more than there are; got 4 of 3 files"):
        find_weights([tmp_path], last=4)
    with pytest.raises(SolverError, match="last: must be at least 1; got 0"):
        find_weights([tmp_path], last=0)


# ------------------------------------------------------------------ writing


def test_a_file_that_is_there_is_replaced_by_force_only(files: list[Path], tmp_path: Path) -> None:
    soup = uniform_soup(files)
    before = files[0].read_bytes()
    with pytest.raises(SolverError, match=r"a.ckpt: is there already; give another path, or --force to replace it"):
        soup.save(files[0])
    assert files[0].read_bytes() == before
    soup.save(files[0], force=True)
    assert read_weights(files[0]).origin is not None


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(AttributeError):
        write_file({"w": lambda: 0}, tmp_path / "x.pt", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
    assert read_weights(tmp_path / "x.pt").weights["w"].item() == 1.0


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SolverError, match="cannot be written: there is no such folder; give a path in a folder"):
        write_file({}, tmp_path / "no" / "x.pt")
    with pytest.raises(SolverError, match="is a folder; give the path of a file"):
        write_file({}, tmp_path, force=True)


def test_a_disk_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SolverError, match=r"x.pt: cannot be written: No space left on device; give a path that can be"):
        write_file({}, tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ greedy


def closeness(state: Any) -> float:
    """The nearer to 1, the better."""
    return -abs(state["weight"].item() - 1.0)


def test_a_greedy_soup_takes_what_does_not_make_it_worse(numbers: Any) -> None:
    paths = numbers(5.0, 0.0, 1.5, 0.25)  # by their own scores: 1.5, 0.25, 0.0, 5.0
    seen: list[tuple[str, float]] = []
    soup = greedy_soup(paths, closeness, on_score=lambda what, score: seen.append((what, score)))
    told = [(trial.path.stem, trial.score, trial.with_it, trial.taken) for trial in soup.trials]
    assert told == [
        ("2", -0.5, -0.5, True),
        ("3", -0.75, -0.125, True),  # mean 0.875
        ("1", -1.0, pytest.approx(-1.25 / 3), False),
        ("0", -4.0, -1.25, False),
    ]
    assert [file.path for file in soup.files] == [paths[2], paths[3]]
    assert soup.state_dict["weight"].item() == 0.875
    assert len(seen) == 2 * 4 - 1
    assert soup.origin["kind"] == "greedy soup"


def test_what_changes_nothing_is_taken(numbers: Any) -> None:
    soup = greedy_soup(numbers(1.0, 2.0, 3.0), lambda state: 0.5)
    assert len(soup.files) == 3
    assert soup.state_dict["weight"].item() == 2.0


def test_lower_scores_are_better_in_the_mode_min(numbers: Any) -> None:
    paths = numbers(5.0, 0.0, 1.5, 0.25)
    soup = greedy_soup(paths, lambda state: torch.tensor(-closeness(state)), mode="min")
    assert [file.path for file in soup.files] == [paths[2], paths[3]]


def test_the_greedy_soup_is_the_uniform_soup_of_what_it_took_in_the_order_given(files: list[Path]) -> None:
    soup = greedy_soup(files[::-1], lambda state: -state["0.weight"].double().square().sum().item())
    taken = [file.path for file in soup.files]
    assert len(taken) > 1
    assert taken == sorted(taken, reverse=True)
    again = uniform_soup(taken).state_dict
    assert all(torch.equal(again[name], value) for name, value in soup.state_dict.items())


def test_weights_that_give_no_number_come_last_and_are_not_taken(numbers: Any) -> None:
    paths = numbers(float("nan"), 0.5, 1.5)
    soup = greedy_soup(paths, closeness)
    assert [file.path for file in soup.files] == paths[1:]
    assert soup.trials[-1].path == paths[0]
    with pytest.raises(SolverError, match="score: is not a number for any of the files; got nan"):
        greedy_soup(paths, lambda state: float("nan"))


@pytest.mark.parametrize("score", ["0.5", None, True, torch.ones(2), {}])
def test_a_score_has_to_be_a_number(numbers: Any, score: Any) -> None:
    paths = numbers(0.5, 1.5)
    with pytest.raises(SolverError, match=r"score of .*0.ckpt: is not a number; got .*; return a number"):
        greedy_soup(paths, lambda state: score)


def test_a_mode_that_there_is_not(numbers: Any) -> None:
    with pytest.raises(SolverError, match="mode: unknown value; got 'best'; give max or min"):
        greedy_soup(numbers(0.5, 1.5), closeness, mode="best")  # type: ignore[arg-type]
