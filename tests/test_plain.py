from __future__ import annotations

import copy
import json
import pickle
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, field
from fractions import Fraction
from typing import Any, Literal, Optional, TypeVar, Union

import pytest

from lightning_solver import SolverError
from lightning_solver.plain import FrozenDict, Plain, conform, describe, freeze, import_dotted, read, thaw

T = TypeVar("T")


@dataclass(frozen=True)
class Screw(Plain):
    length: int
    label: str = "M3"

    def check(self) -> None:
        if self.length <= 0:
            raise self._error("length", "must be > 0", got=self.length, do="make it longer")


class Shape(Plain, ABC):
    @abstractmethod
    def area(self) -> float: ...


@dataclass(frozen=True)
class Square(Shape):
    side: float = 1.0

    def area(self) -> float:
        return self.side**2


@dataclass(frozen=True)
class Rectangle(Shape):
    sides: tuple[float, float]

    def area(self) -> float:
        return self.sides[0] * self.sides[1]


@dataclass(frozen=True)
class Toolbox(Plain):
    screws: Sequence[Screw] = ()
    shape: Shape | None = None
    more: dict[str, Shape | Sequence[Shape]] = field(default_factory=FrozenDict)
    mode: Literal["open", "closed"] = "open"
    weight: float = 2.0
    extra: dict[str, Any] = field(default_factory=FrozenDict)


def toolbox() -> Toolbox:
    return Toolbox(
        screws=[Screw(3), Screw(4, label="long")],
        shape=Rectangle((1, 2)),
        more={"one": Square(2.0), "many": [Square(), Rectangle([3.0, 4.0])]},
        mode="closed",
        extra={"a": [1, {"b": None}], "c": True},
    )


# ------------------------------------------------------------------ FrozenDict


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.__setitem__("a", 2),
        lambda d: d.__delitem__("a"),
        lambda d: d.__ior__({"a": 2}),
        lambda d: d.clear(),
        lambda d: d.pop("a"),
        lambda d: d.popitem(),
        lambda d: d.setdefault("b", 1),
        lambda d: d.update(a=2),
    ],
)
def test_frozen_dict_refuses_every_change(change):
    frozen = FrozenDict(a=1)
    with pytest.raises(TypeError, match="a specification is frozen"):
        change(frozen)
    assert frozen == {"a": 1}


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_frozen_dict_copies_and_pickles(twin):
    frozen = FrozenDict(a=(1, 2), b=FrozenDict(c=None))
    made = twin(frozen)
    assert made == frozen
    assert type(made) is FrozenDict
    assert type(made["b"]) is FrozenDict


def test_frozen_dict_is_a_dict_for_json_and_equality():
    assert json.loads(json.dumps(FrozenDict(a=FrozenDict(b=1)))) == {"a": {"b": 1}}
    assert FrozenDict(a=1) == {"a": 1}


def test_frozen_dict_hashes_by_content():
    assert hash(FrozenDict(a=1, b=2)) == hash(FrozenDict(b=2, a=1))
    assert len({FrozenDict(a=1), FrozenDict(a=1), FrozenDict(a=2)}) == 2


def test_freeze_and_thaw_are_each_other_s_reverse():
    data = {"a": [1, [2.5, None]], "b": {"c": "text", "d": [{"e": True}]}}
    frozen = freeze(data)
    assert type(frozen) is FrozenDict
    assert type(frozen["a"]) is tuple
    assert type(frozen["a"][1]) is tuple
    assert type(frozen["b"]["d"][0]) is FrozenDict
    assert thaw(frozen) == data
    assert type(thaw(frozen)["b"]) is dict


# ------------------------------------------------------------------ conform: what is accepted


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (0.5, float, 0.5),
        ("a", str, "a"),
        (True, bool, True),
        (None, type(None), None),
        (None, None, None),
        ("b", Literal["a", "b"], "b"),
        (2, Literal[1, 2], 2),
        (None, Optional[int], None),
        (4, int | None, 4),
        (4, float | str, 4.0),
        ("4", float | str, "4"),
        (4, Union[str, float], 4.0),
        ([1, 2], Sequence[int], (1, 2)),
        ((1, 2), list[float], (1.0, 2.0)),
        ([], Sequence[int], ()),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        ([1, "x"], tuple[int, str], (1, "x")),
        ([1, None], tuple[float, Optional[float]], (1.0, None)),
        ([[1], [2, 3]], Sequence[Sequence[int]], ((1,), (2, 3))),
        ({"a": 1}, dict[str, float], FrozenDict(a=1.0)),
        ({"a": [1]}, Mapping[str, Sequence[int]], FrozenDict(a=(1,))),
        ([1], list, (1,)),
        ({"a": [1]}, dict, FrozenDict(a=(1,))),
        ({"a": [1, {"b": 2}]}, Any, FrozenDict(a=(1, FrozenDict(b=2)))),
        ([1], T, (1,)),
        (Fraction(1, 2), Fraction, Fraction(1, 2)),
        (len, Callable[..., int], len),
        ({"length": 2}, Screw, Screw(2)),
        (Screw(2), Screw, Screw(2)),
        ("Square", Shape, Square()),
        ({"class_path": "Square"}, Shape, Square()),
        ({"class_path": "Square", "init_args": {"side": 3}}, Shape, Square(3.0)),
        ({"class_path": "Square", "init_args": None}, Shape, Square()),
        ({"class_path": f"{__name__}.Square"}, Shape, Square()),
        (Square(2.0), Shape, Square(2.0)),
        (["Square", {"class_path": "Rectangle", "init_args": {"sides": [1, 2]}}], Shape | Sequence[Shape], None),
    ],
)
def test_conform_accepts_and_freezes(value, hint, expected):
    if expected is None and value is not None:
        expected = (Square(), Rectangle((1.0, 2.0)))
    made = conform(value, hint, "x")
    assert made == expected
    assert type(made) is type(expected)
    if isinstance(made, tuple):
        assert [type(inner) for inner in made] == [type(inner) for inner in expected]


# ------------------------------------------------------------------ conform: what is refused


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "x: must be a whole number; got True (bool); correct it"),
        (True, float, "x: must be a number; got True (bool)"),
        (False, float | None, "x: must be a number or nothing; got False (bool)"),
        (1, bool, "x: must be true or false; got 1 (int)"),
        ("yes", bool, "x: must be true or false; got 'yes' (str)"),
        (3.0, int, "x: must be a whole number; got 3.0 (float)"),
        ("3", int, "x: must be a whole number; got '3' (str)"),
        ("fast", float, "x: must be a number; got 'fast' (str)"),
        (None, float, "x: must be a number; got None (NoneType)"),
        (float("nan"), float, "x: must be a finite number; got nan; give a finite number"),
        (float("inf"), float, "x: must be a finite number; got inf"),
        (float("-inf"), float | None, "x: must be a finite number; got -inf"),
        ([1.0, float("nan")], Sequence[float], "x[1]: must be a finite number; got nan"),
        (3, str, "x: must be a text; got 3 (int)"),
        (3, type(None), "x: must be nothing; got 3 (int)"),
        ("opne", Literal["open", "closed"], "x: unknown value; got 'opne'; did you mean open?"),
        ("opne", Literal["open", "closed"] | None, "x: unknown value; got 'opne'; did you mean open?"),
        ("zzz", Literal["open", "closed"], "x: unknown value; got 'zzz'; known values: closed, open"),
        (7, Literal["open", "closed"], "x: must be 'open' or 'closed'; got 7 (int)"),
        (True, Literal[1], "x: must be 1; got True (bool)"),
        (1.0, Literal[1], "x: must be 1; got 1.0 (float)"),
        ("abc", Sequence[str], "x: must be a list (each item a text); got 'abc' (str)"),
        ({"a": 1}, Sequence[int], "x: must be a list (each item a whole number); got {'a': 1} (dict)"),
        ([1, "b"], Sequence[int], "x[1]: must be a whole number; got 'b' (str)"),
        ([1, True], list[int], "x[1]: must be a whole number; got True (bool)"),
        ([1.0], tuple[float, float], "x: must be a list of 2 numbers; got [1.0] (list)"),
        ([1, 2, 3], tuple[float, float], "x: must be a list of 2 numbers; got [1, 2, 3] (list)"),
        ([1, 2], tuple[int, str], "x[1]: must be a text; got 2 (int)"),
        (0.9, tuple[float, float], "x: must be a list of 2 numbers; got 0.9 (float)"),
        ([1], dict[str, float], "x: must be a mapping; got [1] (list)"),
        ({1: 2.0}, dict[str, float], "x: must be a mapping; got {1: 2.0} (dict)"),
        ({"a": "b"}, dict[str, float], "x.a: must be a number; got 'b' (str)"),
        ({"a": [{"b": "c"}]}, dict[str, Sequence[dict[str, int]]], "x.a[0].b: must be a whole number; got 'c' (str)"),
        (Screw, Screw, "x: must be a Screw; got <class"),
        ([1], Screw, "x: must be a Screw; got [1] (list)"),
        ("Screw", Screw, "x: must be a Screw; got 'Screw' (str)"),
        (Screw(1), Shape, "x: must be a Shape; got Screw(length=1, label='M3') (Screw)"),
        (3, Shape | Sequence[Shape], "x: must be a Shape or a list (each item a Shape); got 3 (int)"),
        (2, Fraction, "x: must be Fraction; got 2 (int)"),
    ],
)
def test_conform_refuses(value, hint, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        conform(value, hint, "x")


def test_a_whole_number_that_no_float_can_hold_is_refused():
    with pytest.raises(SolverError, match="x: must be a finite number"):
        conform(10**400, float, "x")


def test_describe_uses_the_right_article():
    @dataclass(frozen=True)
    class Anvil(Plain):
        pass

    assert describe(Anvil) == "an Anvil"
    assert describe(Screw) == "a Screw"


# ------------------------------------------------------------------ read


def test_read_names_the_nearest_key():
    message = "box.wieght: unknown key; got 'wieght'; did you mean weight?"
    with pytest.raises(SolverError, match=re.escape(message)):
        read(Toolbox, {"wieght": 1.0}, "box")


def test_read_names_every_key_where_none_is_near():
    with pytest.raises(SolverError, match="known keys: extra, mode, more, screws, shape, weight"):
        read(Toolbox, {"zzz": 1.0}, "box")


def test_read_refuses_a_key_that_is_no_text():
    with pytest.raises(SolverError, match=r"box\.7: unknown key; got 7"):
        read(Toolbox, {7: 1.0}, "box")


def test_read_names_missing_keys():
    message = "box.screws[1]: Screw needs length; got {'label': 'x'}; add it"
    with pytest.raises(SolverError, match=re.escape(message)):
        read(Toolbox, {"screws": [{"length": 1}, {"label": "x"}]}, "box")


def test_read_moves_an_error_of_the_class_to_its_path():
    message = "box.screws[0].length: must be > 0; got 0; make it longer"
    with pytest.raises(SolverError, match=re.escape(message)):
        read(Toolbox, {"screws": [{"length": 0}]}, "box")


def test_the_same_mistake_in_python_names_the_class():
    with pytest.raises(SolverError, match=re.escape("Screw.length: must be > 0; got -1; make it longer")):
        Screw(-1)
    with pytest.raises(SolverError, match=re.escape("Screw.length: must be a whole number; got 'x' (str)")):
        Screw("x")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("Sqare", "box.shape.class_path: there is no Shape of this name; got 'Sqare'; did you mean Square?"),
        ("zzz", "box.shape.class_path: there is no Shape of this name; got 'zzz'; known shapes: "),
        ({"class_path": "no_such_package.Square"}, "box.shape.class_path: cannot be imported; got 'no_such_package."),
        ({"class_path": f"{__name__}.Sqare"}, f"box.shape.class_path: module {__name__} has no Sqare; "),
        ({"class_path": f"{__name__}.Sqare"}, "did you mean Square"),
        ({"class_path": f"{__name__}.Screw"}, "box.shape.class_path: is not a Shape; got "),
        ({"class_path": f"{__name__}.Shape"}, "box.shape.class_path: is not a Shape; got "),
        ({"class_path": f"{__name__}.toolbox"}, "name a frozen dataclass that derives from Shape"),
        ({"class_path": 3}, "box.shape: needs class_path, the name of a Shape; got {'class_path': 3}"),
        ({}, "box.shape: needs class_path, the name of a Shape; got {}"),
        ({"init_args": {}}, "box.shape: needs class_path, the name of a Shape"),
        ({"class_path": "Square", "side": 2.0}, "box.shape.side: unknown key; got 'side'; write it as {class_path"),
        ({"class_path": "Square", "init_args": [2.0]}, "box.shape.init_args: must be a mapping; got [2.0]"),
        ({"class_path": "Square", "init_args": {"sied": 2}}, "box.shape.init_args.sied: unknown key; got 'sied'; did"),
        ({"class_path": "Square", "init_args": {"side": "2"}}, "box.shape.init_args.side: must be a number; got '2'"),
        ({"class_path": "Rectangle"}, "box.shape.init_args: Rectangle needs sides; got {}; add it"),
        ({"class_path": ".Square"}, "box.shape.class_path: cannot be imported; got '.Square'"),
        ({"class_path": "..Square"}, "box.shape.class_path: cannot be imported; got '..Square'"),
        ({"class_path": f"{__name__}."}, "box.shape.class_path: "),
    ],
)
def test_read_refuses_a_wrong_class_path(block, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        read(Toolbox, {"shape": block}, "box")


def test_settings_are_frozen():
    box = toolbox()
    with pytest.raises(FrozenInstanceError):
        box.weight = 3.0
    with pytest.raises(TypeError, match="frozen"):
        box.extra["a"] = 1


def test_settings_do_not_see_later_changes_of_what_they_were_made_from():
    given = {"a": [1, 2]}
    box = Toolbox(extra=given)
    given["a"].append(3)
    given["b"] = 1
    assert box.extra == {"a": (1, 2)}


def test_lists_and_tuples_make_equal_settings():
    assert Toolbox(screws=[Screw(1)]) == Toolbox(screws=(Screw(1),))
    assert hash(Toolbox(screws=[Screw(1)])) == hash(Toolbox(screws=(Screw(1),)))


def test_thaw_writes_what_read_reads_back():
    box = toolbox()
    data = thaw(box)
    assert read(Toolbox, data, "box") == box
    assert read(Toolbox, json.loads(json.dumps(data)), "box") == box


def test_thaw_leaves_out_defaults_and_names_a_user_s_classes_by_dotted_path():
    assert thaw(Toolbox(shape=Square(), weight=2)) == {"shape": {"class_path": f"{__name__}.Square"}}
    assert thaw(Toolbox(shape=Square(2.0))) == {
        "shape": {"class_path": f"{__name__}.Square", "init_args": {"side": 2.0}}
    }
    assert thaw(Toolbox()) == {}


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_settings_copy_and_pickle(twin):
    assert twin(toolbox()) == toolbox()


def test_import_dotted_finds_what_is_there():
    assert import_dotted("fractions.Fraction", "x") is Fraction


def test_import_dotted_names_what_is_near():
    message = "x: module fractions has no Fractoin; got 'fractions.Fractoin'; did you mean Fraction"
    with pytest.raises(SolverError, match=re.escape(message)):
        import_dotted("fractions.Fractoin", "x")
