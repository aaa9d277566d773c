"""Arguments that are handed on: all of them are looked at, by the names that they have in the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.interop.base import Notes, Settings


class Keywords(Settings):
    """The arguments of a call that hands some of them on.

    Args:
        data: The arguments.
        where: Their path, for messages.
        notes: Takes notes.
        paths: Argument -> its path, where the config has it under another name.
    """

    def __init__(self, data: Any, where: str, notes: Notes, paths: Mapping[str, str] | None = None) -> None:
        super().__init__(data, where, notes)
        self._paths = paths or {}

    def path(self, key: str) -> str:
        """Path of a key, for messages."""
        return self._paths.get(key) or super().path(key)

    def names(self) -> list[str]:
        """The names of the arguments, in order."""
        return list(self._data)

    def raw(self, key: str) -> Any:
        """The value of a key, whatever it is."""
        self._read.add(key)
        return self._data.get(key)
