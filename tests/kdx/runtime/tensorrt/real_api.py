"""The Python API of the real TensorRT, to which its fakes are held.

``tests/fixtures/tensorrt`` holds what ``record_api.py`` found in the real bindings. A fake can have
no method, parameter, attribute or member that they lack; so a test in which kdx uses one fails.
"""

from __future__ import annotations

import enum
import inspect
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

VERSIONS = ("8.6.0", "10.16.1", "11.4.0")
RTX = "rtx-1.7.1"  # TensorRT for RTX
_RECORDS = Path(__file__).parents[3] / "fixtures" / "tensorrt"

Kind = TypeVar("Kind", bound=type)


class Member(enum.Enum):
    """A member of an enumeration of the bindings: ``int()`` takes it, and some can be ordered."""

    def __int__(self) -> int:
        return int(self.value)

    def __le__(self, other: Any) -> bool:
        return int(self) <= int(other)


class RealApi:
    """What several versions have in common.

    Attributes:
        covered: The names that fakes have, by class; some classes in several parts.
    """

    def __init__(self, *versions: str) -> None:
        self.records = [json.loads((_RECORDS / f"{version}.json").read_text(encoding="utf-8")) for version in versions]
        self.covered: dict[str, set[str]] = {}

    def enumeration(self, name: str) -> Any:
        """Return an enumeration with the members of the last version."""
        return Member(name, self.records[-1]["enumerations"][name])

    def like(self, name: str, own: Collection[str] = ()) -> Callable[[Kind], Kind]:
        """Decorate a fake of a class: check its methods now, and each attribute when it is set.

        Args:
            name: The class that it stands for.
            own: Names that tests alone use.
        """
        real = [record["classes"][name] for record in self.records]
        assert not [each for each in own if any(each in part for kind in real for part in kind.values())]

        def decorate(fake: Kind) -> Kind:
            public = {each for each in vars(fake) if not each.startswith("_") and each not in own}
            for each in public:
                value = vars(fake)[each]
                for kind in real:
                    if inspect.isfunction(value):
                        assert _accepts(value, kind["methods"].get(each, [])), f"{name}.{each}"
                    else:
                        assert each in kind["attributes"], f"{name}.{each}"
            self.covered[name] = self.covered.get(name, set()) | public

            def set_attribute(fake: object, attribute: str, value: object) -> None:
                if not attribute.startswith("_") and attribute not in own:
                    if not all(attribute in kind["attributes"] for kind in real):
                        raise AttributeError(f"TensorRT's {name} has no attribute '{attribute}'")
                    self.covered[name].add(attribute)
                object.__setattr__(fake, attribute, value)

            fake.__setattr__ = set_attribute  # type: ignore[method-assign, assignment]
            return fake

        return decorate


def _accepts(fake: Callable[..., object], overloads: list[list[str]]) -> bool:
    """Whether a fake method has the parameters of an overload, without some that may be omitted."""
    taken = [each for each in inspect.signature(fake).parameters if each != "self"]
    return any(
        taken == [each.rstrip("=") for each in real[: len(taken)]]
        and all(each.endswith("=") for each in real[len(taken) :])
        for real in overloads
    )
