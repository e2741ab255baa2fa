"""The fields of a detector's rule as attributes of the detector."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from typing_extensions import Self

from kdx.decision.roi import Roi

if TYPE_CHECKING:
    from kdx.runtime.detector import Detector

T = TypeVar("T")


class FieldOfRule(Generic[T]):
    """A detector's attribute that is a field of its rule.

    Assigning another value gives the detector another rule.
    """

    def __init__(self, **outdated: None) -> None:
        """Create the attribute.

        Args:
            outdated: The fields that say nothing about another value of this one, and their values
                from then on.
        """
        self._outdated = outdated

    def __set_name__(self, owner: type[Detector], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, detector: None, owner: type[Detector]) -> Self: ...
    @overload
    def __get__(self, detector: Detector, owner: type[Detector]) -> T: ...
    def __get__(self, detector: Detector | None, owner: type[Detector]) -> T | Self:
        if detector is None:
            return self
        value: T = getattr(detector.rule, self._name)
        return value

    def __set__(self, detector: Detector, value: T) -> None:
        with detector._rule_lock:  # so that threads that assign different attributes lose none
            before = getattr(detector.rule, self._name)
            changed: dict[str, Any] = {self._name: value}
            if not _is_same(value, before):
                changed |= self._outdated
            detector.rule = replace(detector.rule, **changed)


def _is_same(value: object, other: Any) -> bool:
    is_equal = value == other if isinstance(value, int | float) else isinstance(value, Roi) and value.is_same(other)
    return value is other or is_equal
