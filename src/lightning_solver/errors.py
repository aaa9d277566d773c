"""The one error that users see, and the search for the name they meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SolverError(ValueError):
    """A mistake in what the user gave, found before the first optimiser step.

    The message always reads ``where: what; got ...; do this``.

    Args:
        where: Path of the setting, such as ``rules[1].match`` or ``schedules.lr[0].until``.
        what: What is wrong, in a few words.
        got: The value that was found, as text; ``None`` where there is no value to show.
        do: What to do about it.

    Example:
        >>> str(SolverError("lr", "must not be negative", got="-1.0", do="give a number >= 0"))
        'lr: must not be negative; got -1.0; give a number >= 0'
    """

    def __init__(self, where: str, what: str, *, got: str | None = None, do: str | None = None) -> None:
        self.where = where
        self.what = what
        self.got = got
        self.do = do
        parts = [f"{where}: {what}"]
        if got is not None:
            parts.append(f"got {got}")
        if do is not None:
            parts.append(do)
        super().__init__("; ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.where, self.what, self.got, self.do)

    def moved(self, old: str, new: str) -> SolverError:
        """The same error with the head ``old`` of its path replaced by ``new``."""
        if self.where == old or self.where.startswith((old + ".", old + "[")):
            where = new + self.where[len(old) :]
            return SolverError(where, self.what, got=self.got, do=self.do)
        return self


def _rebuild(where: str, what: str, got: str | None, do: str | None) -> SolverError:
    return SolverError(where, what, got=got, do=do)


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names that look most like ``name``, best first; upper and lower case count alike.

    Example:
        >>> nearest("adamv", ["SGD", "AdamW", "Adam"])
        ['Adam', 'AdamW']
    """
    by_folded: dict[str, str] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), candidate)
    found = difflib.get_close_matches(name.casefold(), list(by_folded), n=most, cutoff=0.5)
    return [by_folded[folded] for folded in found]


def suggestion(name: str, known: Iterable[str], what: str = "names") -> str:
    """A sentence that helps someone who wrote ``name`` and meant one of ``known``.

    Example:
        >>> suggestion("decai", ["decay", "warmup"])
        'did you mean decay?'
        >>> suggestion("zzz", ["decay", "warmup"])
        'known names: decay, warmup'
    """
    names = list(known)
    close = nearest(name, names)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(sorted(names)[:12])
    more = f", ... ({len(names)} in all)" if len(names) > 12 else ""
    return f"known {what}: {shown}{more}" if names else f"there are no {what} to choose from"
