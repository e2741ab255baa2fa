"""The fields of a detector's rule as attributes of the detector."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from typing_extensions import Self

from kdx.decision.roi import Roi

if TYPE_CHECKING:
    from kdx.runtime.detector import Detector

T = TypeVar("T")
# The fields that say something of others, and of which. A field stands after those that it is of.
_PLACES = ("level", "roi")
_OF = {
    "good_scores": _PLACES,
    "threshold": _PLACES,
    "review_threshold": _PLACES,
    "pixel_threshold": _PLACES,
    "threshold_by_hand": (*_PLACES, "threshold", "review_threshold"),
}


class FieldOfRule(Generic[T]):
    """A detector's attribute that is a field of its rule.

    Assigning another value gives the detector another rule. Fields that were loaded and say
    something of the former value are None from then on, until they are assigned, or all that they
    were of is assigned again as it was loaded. What a caller assigned to them stays.
    """

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
            rule, loaded = detector.rule, detector._rule_as_loaded
            changed: dict[str, Any] = {self._name: value}
            for name, of in _OF.items():
                current = getattr(rule, name)
                if current is not None and not _is_same(current, getattr(loaded, name)):
                    continue
                if self._name in of and not _is_same(value, getattr(rule, self._name)):
                    now = {each: changed.get(each, getattr(rule, each)) for each in of}
                    is_back = all(_is_same(each, getattr(loaded, field)) for field, each in now.items())
                    changed[name] = getattr(loaded, name) if is_back else None
            detector.rule = replace(rule, **changed)


class RegionOfRule(FieldOfRule["Roi | None"]):
    """The region of interest, which may be assigned as a mask, and must fit the detector."""

    def __set__(self, detector: Detector, value: Any) -> None:
        super().__set__(detector, value if value is None else detector.region_of_interest(value))


def _is_same(value: object, other: Any) -> bool:
    is_equal = value == other if isinstance(value, int | float) else isinstance(value, Roi) and value.is_same(other)
    return value is other or is_equal
