"""Frozen plain data: checked when it is made, read from mappings, written back as mappings.

A class of settings derives from :class:`Plain` and is a frozen dataclass. Its annotations are the schema: values are
checked against them when the object is made, whoever makes it (Python, YAML, a checkpoint).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeGuard, TypeVar, Union

from lightning_solver.errors import SolverError, suggestion

T = TypeVar("T", bound="Plain")


class FrozenDict(dict[str, Any]):
    """A ``dict`` that cannot be changed, so that a specification stays what was checked.

    It is still a ``dict`` for ``json``, ``==`` and ``copy``; :func:`thaw` makes an ordinary one of it.

    Example:
        >>> FrozenDict(a=1)["a"]
        1
        >>> FrozenDict(a=1)["a"] = 2
        Traceback (most recent call last):
        ...
        TypeError: a specification is frozen: make a new one with dataclasses.replace
    """

    def _refuse(self, *args: object, **kwargs: object) -> typing.NoReturn:
        """Raises ``TypeError``."""
        raise TypeError("a specification is frozen: make a new one with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenDict:
        return self


def freeze(value: Any) -> Any:
    """Plain data with every list turned into a tuple and every mapping into a :class:`FrozenDict`."""
    if isinstance(value, Mapping):
        return FrozenDict({key: freeze(inner) for key, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(freeze(inner) for inner in value)
    return value


def thaw(value: Any) -> Any:
    """The reverse of :func:`freeze`, as YAML and JSON like it; settings become mappings."""
    if isinstance(value, Plain):
        return _written(value)
    if isinstance(value, Mapping):
        return {key: thaw(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [thaw(inner) for inner in value]
    return dotted_path(value) if callable(value) and not isinstance(value, type) else value


def dotted_path(function: Callable[..., Any]) -> str:
    """The path by which a function can be imported again.

    Raises:
        SolverError: There is none, as for a lambda.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", repr(function))
    if module not in sys.modules or getattr(sys.modules[module], name, None) is not function:
        do = "define it by name at the top of a module"
        what = "cannot be written down, as it has no name by which it could be imported"
        raise SolverError("function", what, got=name, do=do)
    return f"{module}.{name}"


@dataclasses.dataclass(frozen=True)
class Plain:
    """Base of every class of settings: a frozen dataclass whose fields are checked against their annotations.

    It is a dataclass itself because jsonargparse takes a class as one block of settings only if its bases all are.
    """

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field, hint in field_hints(type(self)).items():
            value = conform(getattr(self, field), hint, f"{name}.{field}")
            object.__setattr__(self, field, value)
        self.check()

    def check(self) -> None:
        """Raise :class:`SolverError` for what the annotations cannot say; ``where`` starts with the class name."""

    @classmethod
    def instead(cls, key: str) -> str | None:  # noqa: ARG003
        """What to write in place of a key that there is not, where more can be told than the nearest names.

        Args:
            key: The key.
        """
        return None

    def _error(self, field: str, what: str, *, got: object = None, do: str | None = None) -> SolverError:
        return SolverError(f"{type(self).__name__}.{field}", what, got=None if got is None else repr(got), do=do)


def field_hints(cls: Any) -> dict[str, Any]:
    """Field name -> resolved annotation, in the order of the fields of the dataclass ``cls``."""
    return _field_hints(cls)


@functools.cache
def _field_hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def read(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Make a ``cls`` from a mapping, strictly.

    Args:
        cls: The class of settings.
        data: Field name -> value; nested settings as mappings.
        where: Path of ``data`` for error messages.

    Raises:
        SolverError: An unknown or missing key, a value of the wrong type, or one that ``cls`` refuses.
    """
    hints = field_hints(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            do = _instead(cls, str(key)) or suggestion(str(key), hints, "keys")
            raise SolverError(f"{where}.{key}", "unknown key", got=repr(key), do=do)
        values[key] = conform(value, hints[key], f"{where}.{key}")
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SolverError(where, f"{cls.__name__} needs {' and '.join(missing)}", got=repr(dict(data)), do="add it")
    try:
        return cls(**values)
    except SolverError as error:
        raise error.moved(cls.__name__, where) from None


def _instead(cls: type, key: str) -> str | None:
    return cls.instead(key) if issubclass(cls, Plain) else None


def _written(value: Plain) -> dict[str, Any]:
    """A mapping that :func:`read` turns back into ``value``; fields at their defaults are left out."""
    data: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = freeze(field.default_factory())
        if inner != default or type(inner) is not type(default):
            data[field.name] = thaw(inner)
    base = _abstract_base(type(value))
    if base is None:
        return data
    written: dict[str, Any] = {"class_path": _class_name(type(value))}
    if data:
        written["init_args"] = data
    return written


# ------------------------------------------------------------------ checking one value against one annotation


def conform(value: Any, hint: Any, where: str) -> Any:
    """Check ``value`` against the annotation ``hint`` and return it frozen.

    A whole number is accepted where a ``float`` is asked for (and becomes one), a list where a tuple or sequence is,
    a mapping where settings are. Nothing else is converted.

    Raises:
        SolverError: The value does not fit.

    Example:
        >>> conform(1, float, "lr"), conform([0.9, 0.95], tuple[float, float], "betas")
        (1.0, (0.9, 0.95))
    """
    origin = typing.get_origin(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return freeze(value)
    if origin in (Union, types.UnionType):
        return _conform_union(value, typing.get_args(hint), where)
    if not _fits(value, hint):
        raise _misfit(value, hint, where)
    if origin is Literal:
        return value
    if origin in _SEQUENCES:
        return _conform_sequence(value, hint, where)
    if origin in _MAPPINGS:
        _, inner = typing.get_args(hint)
        return FrozenDict({key: conform(item, inner, f"{where}.{key}") for key, item in value.items()})
    if hint is float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise SolverError(where, "must be a finite number", got=repr(value), do="give a finite number")
        return number
    if _is_class(hint) and issubclass(hint, Plain):
        if isinstance(value, Plain):
            return value
        return _read_polymorphic(hint, value, where) if inspect.isabstract(hint) else read(hint, value, where)
    return freeze(value)


_SEQUENCES = (list, tuple, Sequence, Iterable)
_MAPPINGS = (dict, Mapping)


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` has the outer type that ``hint`` asks for; what is inside is not looked at."""
    origin = typing.get_origin(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(_fits(value, inner) for inner in typing.get_args(hint))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(hint))
    if origin in _SEQUENCES or hint in _SEQUENCES:
        return isinstance(value, (list, tuple))
    if origin in _MAPPINGS or hint in _MAPPINGS:
        keys = typing.get_args(hint)[0] if typing.get_args(hint) else str
        return isinstance(value, Mapping) and all(_fits(key, keys) for key in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if _is_class(hint):
        if isinstance(value, hint):
            return True
        return issubclass(hint, Plain) and isinstance(value, (Mapping, str) if inspect.isabstract(hint) else Mapping)
    return True  # an annotation that cannot be checked, such as a protocol of a third party


def _conform_union(value: Any, hints: Sequence[Any], where: str) -> Any:
    if (
        isinstance(value, str)
        and float in hints
        and str not in hints
        and not any(_admits(hint, value) for hint in hints)
        and _is_number_in_quotes(value)
    ):
        got, do = f"{value!r} (str)", "write it without quotes, and with a point: YAML reads 1e-3 as a text"
        raise SolverError(where, f"must be {describe(Union[tuple(hints)])}", got=got, do=do)
    if value == math.inf and any(_admits(hint, "inf") for hint in hints):
        return "inf"  # as torch and YAML write it
    for hint in hints:
        if _fits(value, hint) and not (_is_mapping_of_settings(value, hint) and _names_no_field(value, hint, hints)):
            return conform(value, hint, where)
    choices = [hint for hint in hints if typing.get_origin(hint) is Literal]
    raise _misfit(value, choices[0] if choices and isinstance(value, str) else Union[tuple(hints)], where)


def _admits(hint: Any, word: str) -> bool:
    """Whether an annotation admits a word as one of its choices."""
    return typing.get_origin(hint) is Literal and word in typing.get_args(hint)


def _is_mapping_of_settings(value: Any, hint: Any) -> bool:
    """Whether a mapping is given where it may stand for settings of one class."""
    return isinstance(value, Mapping) and _is_class(hint) and issubclass(hint, Plain) and not inspect.isabstract(hint)


def _names_no_field(value: Mapping[Any, Any], hint: Any, hints: Sequence[Any]) -> bool:
    """Whether a mapping has none of the keys of a class of settings, and an ordinary mapping may be meant too."""
    others = (choice for choice in hints if typing.get_origin(choice) in _MAPPINGS)
    return not any(key in field_hints(hint) for key in value) and any(_fits(value, choice) for choice in others)


def _is_number_in_quotes(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _conform_sequence(value: Sequence[Any], hint: Any, where: str) -> tuple[Any, ...]:
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        if len(value) != len(inner):
            raise _misfit(value, hint, where)
        return tuple(conform(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, inner)))
    return tuple(conform(item, inner[0], f"{where}[{i}]") for i, item in enumerate(value))


def _misfit(value: Any, hint: Any, where: str) -> SolverError:
    if typing.get_origin(hint) is Literal and isinstance(value, str):
        choices = [str(choice) for choice in typing.get_args(hint)]
        return SolverError(where, "unknown value", got=repr(value), do=suggestion(value, choices, "values"))
    got = f"{value!r} ({type(value).__name__})"
    for choice in (hint, *typing.get_args(hint)):
        if _is_class(choice) and issubclass(choice, Plain) and inspect.isabstract(choice):
            names = ", ".join(sorted(subclasses(choice)))
            do = f"write it as {{class_path: ..., init_args: {{...}}}}, with one of {names}; in Python give an instance"
            return SolverError(where, f"must be {describe(hint)}", got=got, do=do)
        if _is_class(choice) and issubclass(choice, Plain) and dataclasses.fields(choice):
            do = f"write a mapping with some of the keys {', '.join(field_hints(choice))}"
            return SolverError(where, f"must be {describe(hint)}", got=got, do=do)
    return SolverError(where, f"must be {describe(hint)}", got=got, do="correct it")


def describe(hint: Any) -> str:
    """An annotation in words.

    Example:
        >>> describe(bool | str | None), describe(tuple[float, float])
        ('true or false, a text or nothing', 'a list of 2 numbers')
    """
    words: dict[Any, str] = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "a text",
        type(None): "nothing",
        None: "nothing",
        int | str: "a duration such as 500, 5ep or 10%",
        int | str | None: "a duration such as 500, 5ep or 10%, or nothing",
    }
    if hint in words:
        return words[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        speakable = [choice for choice in inner if not _only_in_python(choice)] or inner
        *most, last = dict.fromkeys(describe(choice) for choice in speakable)
        return f"{', '.join(most)} or {last}" if most else last
    if origin is Literal:
        return " or ".join(repr(choice) for choice in inner)
    if origin is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        kinds = {describe(choice) for choice in inner}
        what = kinds.pop().removeprefix("a ") if len(kinds) == 1 and " or " not in next(iter(kinds)) else "value"
        return f"a list of {len(inner)} {what}s"
    if origin in _SEQUENCES or hint in _SEQUENCES:
        return f"a list (each item {describe(inner[0])})" if inner else "a list"
    if origin in _MAPPINGS or hint in _MAPPINGS:
        return "a mapping"
    if _is_class(hint) and issubclass(hint, Plain):
        article = "an" if hint.__name__[0] in "AEIOU" else "a"
        return f"{article} {hint.__name__}"
    return getattr(hint, "__name__", str(hint))


def _is_class(hint: Any) -> TypeGuard[type]:
    """Whether an annotation is a plain class; Python 3.10 says of ``Sequence[int]``, too, that it is a type."""
    return isinstance(hint, type) and typing.get_origin(hint) is None


def _only_in_python(hint: Any) -> bool:
    """Whether an annotation is a class that no YAML can give, such as a tensor."""
    return _is_class(hint) and not issubclass(hint, (Plain, float, int, str, bool, type(None), list, tuple, dict))


# ------------------------------------------------------------------ classes named by class_path


def _read_polymorphic(base: type[T], value: Any, where: str) -> T:
    block = {"class_path": value} if isinstance(value, str) else dict(value)
    for key in block:
        if key not in ("class_path", "init_args"):
            do = f"write it as {{class_path: ..., init_args: {{{key}: ...}}}}"
            raise SolverError(f"{where}.{key}", "unknown key", got=repr(key), do=do)
    path = block.get("class_path")
    if not isinstance(path, str):
        do = f"name one of {', '.join(sorted(subclasses(base)))}, or a dotted path"
        raise SolverError(where, f"needs class_path, the name of a {base.__name__}", got=repr(value), do=do)
    arguments = block.get("init_args") or {}
    if not isinstance(arguments, Mapping):
        raise SolverError(f"{where}.init_args", "must be a mapping", got=repr(arguments), do="correct it")
    return read(_find_class(base, path, f"{where}.class_path"), arguments, f"{where}.init_args")


def subclasses(base: type[T]) -> dict[str, type[T]]:
    """Short name -> concrete class, for the classes deriving from ``base`` that have been imported; ours come first."""
    found: dict[str, type[T]] = {}
    for cls in base.__subclasses__():
        if not inspect.isabstract(cls):
            found.setdefault(cls.__name__, cls)
        for name, inner in subclasses(cls).items():
            found.setdefault(name, inner)
    return found


def _find_class(base: type[T], path: str, where: str) -> type[T]:
    known = subclasses(base)
    if path in known:
        return known[path]
    if "." not in path:
        do = suggestion(path, known, f"{base.__name__.lower()}s")
        raise SolverError(where, f"there is no {base.__name__} of this name", got=repr(path), do=do)
    cls = import_dotted(path, where)
    if isinstance(cls, type) and issubclass(cls, base) and not inspect.isabstract(cls):
        return cls
    do = f"name a frozen dataclass that derives from {base.__name__}"
    raise SolverError(where, f"is not a {base.__name__}", got=repr(path), do=do)


def import_dotted(path: str, where: str) -> Any:
    """Import the object that a dotted path names.

    Raises:
        SolverError: The module or the name in it is not there.
    """
    module_name, _, name = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")):
        do = "give a dotted path such as package.module.Class"
        raise SolverError(where, "cannot be imported", got=repr(path), do=do)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        do = f"install it, or correct the path ({error})"
        raise SolverError(where, "cannot be imported", got=repr(path), do=do) from error
    if not hasattr(module, name):
        do = suggestion(name, [n for n in vars(module) if not n.startswith("_")])
        raise SolverError(where, f"module {module_name} has no {name}", got=repr(path), do=do)
    return getattr(module, name)


def _abstract_base(cls: type) -> type | None:
    return next((base for base in cls.__mro__ if base is not Plain and inspect.isabstract(base)), None)


def _class_name(cls: type) -> str:
    """The short name for a class of this package, the dotted path for a user's own."""
    own = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
    return cls.__name__ if own else f"{cls.__module__}.{cls.__qualname__}"
