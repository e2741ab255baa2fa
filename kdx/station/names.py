"""What the name of a file says of the part: its identifier, its product, its view."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kdx.errors import DataError, OptionError

PART, PRODUCT, VIEW = "part", "product", "view"


class PartName(NamedTuple):
    """What a name says; None for what it does not say."""

    part: str | None = None
    product: str | None = None
    view: str | None = None


@dataclass(frozen=True)
class NamePattern:
    """A regular expression with the groups ``part``, ``product`` and ``view``, or none.

    Attributes:
        pattern: The expression, which is searched in the path relative to the watched folder.
        views: The views that make a part; empty if each file is a part of its own.
        product: An expression with the group ``product``, which is searched in the part; None where
            the product is a group of ``pattern``, or each part has the same one.
    """

    pattern: re.Pattern[str] | None = None
    views: tuple[str, ...] = ()
    product: re.Pattern[str] | None = None

    @property
    def has_part(self) -> bool:
        """Whether every name is to say a part, and is judged if it does not."""
        return self.pattern is not None and PART in self.pattern.groupindex and not self.views

    def read(self, name: str) -> PartName:
        """Return what the name of a file says."""
        found = None if self.pattern is None else self.pattern.search(name)
        groups = {} if found is None else found.groupdict()
        part, product = groups.get(PART), groups.get(PRODUCT)
        if self.product is not None:
            found = self.product.search(part or "")
            product = None if found is None else found[PRODUCT]
        return PartName(part, product, groups.get(VIEW) if self.views else None)

    def require_view(self, name: str) -> None:
        """Check that a file is a view of a part, where parts have several views.

        Raises:
            DataError: Its name does not say which view of which part it is.
        """
        part = self.read(name)
        if self.views and (part.part is None or part.view not in self.views):
            raise DataError(
                f"'{name}' does not say which view of which part it is",
                expected=f"the part and one of the views {', '.join(self.views)}",
                received=f"part {part.part or 'none'}, view {part.view or 'none'}",
            )


def product_pattern(text: str | None) -> re.Pattern[str] | None:
    """Return the expression by which users find the product in a part; None for None.

    Raises:
        OptionError: It is invalid, or lacks the group ``product``.
    """
    if text is None:
        return None
    pattern = _compiled("product", text)
    if PRODUCT not in pattern.groupindex:
        raise OptionError("`product` lacks the group product", expected="(?P<product>...)", received=text)
    return pattern


def name_pattern(
    part_id: str | None,
    part_of: str | None = None,
    views: Sequence[str] = (),
    *,
    product: str | None = None,
    has_products: bool = False,
) -> NamePattern:
    """Return the pattern that users give.

    Args:
        part_id: An expression with the group ``part``, ``product``, or both; or None.
        part_of: The same with the group ``view`` too, for parts of several views; or None.
        views: The views that make a part.
        product: As for :func:`product_pattern`.
        has_products: Whether the bundle is chosen by product.

    Raises:
        OptionError: An invalid expression, a group that is missing, or views without ``part_of``.
    """
    if part_id is not None and part_of is not None:
        raise OptionError("`part_id` and `part_of` both say how files name their part", fix="leave out `part_id`")
    if (part_of is None) != (not views):
        raise OptionError(
            "parts of several views need both `part_of` and `views`",
            fix="`part_of=REGEX` with the groups (?P<part>...) and (?P<view>...), and `views=left,right`",
        )
    option, text = ("part_id", part_id) if part_of is None else ("part_of", part_of)
    if product is not None and not has_products:
        raise OptionError(
            "`product` has no effect: one bundle judges every part, or a trigger names the product",
            fix="leave it out, or name a bundle for each product: `bundle=PRODUCT=PATH`",
        )
    chosen_by = PART if product is not None else PRODUCT
    needed = {chosen_by} if has_products else set()
    if part_of is not None:
        needed |= {PART, VIEW}
    groups: set[str] = set()
    pattern = None
    if text is not None:
        pattern = _compiled(option, text)
        groups = set(pattern.groupindex)
        if not groups & {PART, PRODUCT}:
            needed |= {PART}
    if not needed <= groups:
        raise OptionError(
            f"`{option}` lacks the group {' and '.join(sorted(needed - groups))}",
            expected=f"a regular expression with {' and '.join(f'(?P<{name}>...)' for name in sorted(needed))}",
            received=text or "nothing",
        )
    return NamePattern(pattern, tuple(dict.fromkeys(views)), product_pattern(product))


def _compiled(option: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise OptionError(f"`{option}` is not a regular expression: {error}", received=text) from error
