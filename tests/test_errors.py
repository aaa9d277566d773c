import copy
import pickle

import pytest

from lightning_solver import SolverError
from lightning_solver.errors import nearest, suggestion


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SolverError("lr", "is odd"), "lr: is odd"),
        (SolverError("lr", "is odd", got="3"), "lr: is odd; got 3"),
        (SolverError("lr", "is odd", do="make it even"), "lr: is odd; make it even"),
        (SolverError("lr", "is odd", got="3", do="make it even"), "lr: is odd; got 3; make it even"),
        (SolverError("lr", "is odd", got=""), "lr: is odd; got "),
    ],
)
def test_message_reads_where_what_got_do(error, message):
    assert str(error) == message


def test_it_is_a_value_error_with_its_parts_as_attributes():
    error = SolverError("a", "b", got="c", do="d")
    assert isinstance(error, ValueError)
    assert (error.where, error.what, error.got, error.do) == ("a", "b", "c", "d")


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_and_pickles_keep_everything(twin):
    # Worker processes send errors by pickle; ValueError's own way would call the class with one argument.
    error = SolverError("rules[0].match", "matches nothing", got="'x'", do="nearest names: y")
    made = twin(error)
    assert type(made) is SolverError
    assert str(made) == str(error)
    assert (made.where, made.what, made.got, made.do) == (error.where, error.what, error.got, error.do)


@pytest.mark.parametrize(
    ("where", "moved"),
    [
        ("Linear", "schedules.lr"),
        ("Linear.start", "schedules.lr.start"),
        ("Linear[0].start", "schedules.lr[0].start"),
        ("Linearly.start", "Linearly.start"),
        ("a.Linear", "a.Linear"),
    ],
)
def test_moved_replaces_the_head_of_the_path(where, moved):
    error = SolverError(where, "is odd", got="3", do="make it even").moved("Linear", "schedules.lr")
    assert str(error) == f"{moved}: is odd; got 3; make it even"


def test_nearest_ignores_case_and_puts_the_best_first():
    assert nearest("ADAMW", ["SGD", "Adam", "AdamW"])[0] == "AdamW"
    assert nearest("weight_deca", ["lr", "weight_decay", "eps"]) == ["weight_decay"]


def test_nearest_is_empty_where_nothing_is_near():
    assert nearest("zzz", ["lr", "eps"]) == []
    assert nearest("lr", []) == []


def test_nearest_gives_no_more_than_asked():
    names = ["name1", "name2", "name3", "name4"]
    assert len(nearest("name", names)) == 3
    assert len(nearest("name", names, most=1)) == 1


def test_suggestion_names_what_is_near():
    assert suggestion("momentun", ["momentum", "nesterov"]) == "did you mean momentum?"
    assert suggestion("beta", ["beta1", "beta2"]) in ("did you mean beta1 or beta2?", "did you mean beta2 or beta1?")


def test_suggestion_lists_what_is_known_in_order():
    assert suggestion("zzz", ["b", "a"], "options") == "known options: a, b"


def test_suggestion_cuts_a_long_list_and_says_so():
    names = [f"n{i:02}" for i in range(20)]
    assert suggestion("zzz", names) == f"known names: {', '.join(names[:12])}, ... (20 in all)"


def test_suggestion_without_any_names():
    assert suggestion("zzz", [], "schedules") == "there are no schedules to choose from"
