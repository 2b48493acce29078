"""Plug-ins: what other installed packages add to the catalogues, by Python entry points.

A package registers an object in one of the `GROUPS`; the entry point has the object's name in the catalogue:

    [project.entry-points."mien.tasks"]
    sharpness = "my_package:SHARPNESS"

Nothing is searched for when mien is imported, and no plug-in is imported before its name is looked up and the
catalogue has no entry of that name, or before plug-ins are listed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from mien.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUPS = {
    "mien.tasks": "task",
    "mien.datasets": "data set",
    "mien.protocols": "protocol",
    "mien.systems": "system",
}

V = TypeVar("V")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing.

    Attributes:
        name: in the catalogue.
        value: the object; None where it could not be loaded.
        package, version: where it comes from; empty where this process added it.
        error: why it could not be loaded, or None.
    """

    name: str
    value: Any
    package: str
    version: str
    error: PluginError | None = None

    @property
    def origin(self) -> str:
        """`package version`."""
        return f"{self.package} {self.version}" if self.package else "this process"


class Catalogue(dict[str, V]):
    """The entries of mien by name, and those of plug-ins, which are loaded when their name is looked up.

    Iteration, `len` and `items` cover the entries of mien and the plug-ins loaded so far; `listing` covers
    all.

    Args:
        group: of the entry points, in `GROUPS`.
        entries: of mien.
        check: (name, object of a plug-in) -> what is wrong with it, or an empty string.
        reserved: names that are taken, besides those of the entries.
    """

    def __init__(
        self,
        group: str,
        entries: dict[str, V],
        check: Callable[[str, Any], str],
        reserved: frozenset[str] = frozenset(),
    ):
        super().__init__(entries)
        self.group, self._check = group, check
        self._own = frozenset(entries)
        self._reserved = reserved | self._own

    def __missing__(self, name: str) -> V:
        if name in self._reserved or not (points := _entry_points(self.group).get(name)):
            raise KeyError(name)
        if (clash := self._clash(name)) is not None:
            raise clash
        value: V = self._load(points[0])
        self[name] = value
        return value

    def __contains__(self, name: object) -> bool:
        """Whether there is an entry of that name, of mien or of a plug-in; nothing is imported."""
        if super().__contains__(name):
            return True
        return isinstance(name, str) and name not in self._reserved and name in _entry_points(self.group)

    @overload  # type: ignore[override]
    def get(self, name: str, default: None = None) -> V | None: ...
    @overload
    def get(self, name: str, default: D) -> V | D: ...
    def get(self, name: str, default: Any = None) -> Any:
        """The entry, or the default where there is none."""
        try:
            return self[name]
        except KeyError:
            return default

    def listing(self) -> Iterator[Entry]:
        """All entries, those of mien first, then the plug-ins' by name. A plug-in that fails has an error."""
        from mien import __version__

        points = _entry_points(self.group)
        for name, value in list(self.items()):
            if name in self._own:
                yield Entry(name, value, "mien", __version__)
            elif name not in points:
                yield Entry(name, value, "", "")
        for name in sorted(points):
            clash = self._clash(name)
            for point in points[name]:
                package, version = _origin(point)
                if clash is not None:
                    yield Entry(name, None, package, version, clash)
                    continue
                try:
                    yield Entry(name, self[name], package, version)
                except PluginError as error:
                    yield Entry(name, None, package, version, error)

    def _clash(self, name: str) -> PluginError | None:
        """What is wrong with the name of a plug-in; None where it is free."""
        points = _entry_points(self.group)[name]
        described = " and ".join(map(_described, points))
        kind = GROUPS[self.group]
        if name in self._reserved:
            return PluginError(
                f"{described} cannot add the {kind} {name!r}: mien has a {kind} of that name; rename the"
                " entry point and its object"
            )
        if len(points) > 1:
            return PluginError(f"the {kind} {name!r} is added twice, by {described}; uninstall one of them")
        return None

    def _load(self, point: EntryPoint) -> Any:
        """The object of an entry point.

        Raises:
            PluginError: it cannot be imported, or it is not what the group holds.
        """
        try:
            value = point.load()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{_described(point)} cannot be loaded ({type(error).__name__}: {error}); update or uninstall"
                " the package"
            ) from error
        if wrong := self._check(point.name, value):
            raise PluginError(f"{_described(point)} is not a {GROUPS[self.group]} for mien: {wrong}")
        return value


def check_name(name: str, value: Any) -> str:
    """What is wrong with an object that knows its name; empty where nothing is."""
    return "" if value.name == name else f"its name is {value.name!r}, not {name!r}; use one name for both"


def check_callable(name: str, value: Any) -> str:
    """What is wrong with a function that an entry point names; empty where nothing is."""
    return "" if callable(value) else f"it is of type {type(value).__name__}; name a function or a class"


def _entry_points(group: str) -> dict[str, list[EntryPoint]]:
    """Name -> entry points of the installed packages; searched for once per group and `sys.path`."""
    return _search(group, tuple(sys.path))


@functools.lru_cache(maxsize=32)
def _search(group: str, path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found


def _origin(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the package that an entry point belongs to."""
    return (point.dist.name, point.dist.version) if point.dist is not None else ("unknown", "")


def _described(point: EntryPoint) -> str:
    """An entry point for an error message."""
    return (
        f"the plug-in {' '.join(_origin(point))} (entry point {point.name} = {point.value} in {point.group})"
    )
