"""How much smaller the networks see an image than the camera does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kd_train.data.image_records import ImageRecord
from kdx.imaging.image_size import ImageSize, both_sides
from kdx.imaging.images import InputSpec
from kdx.remarks import Remark, remark

# From which factor on, a side, users are told; and how many pixels a defect should cover for the
# networks: the rule of thumb in "A method and a size for a cycle time".
_MUCH, _ENOUGH_PIXELS = 8, 10


def reduction_remark(records: Sequence[ImageRecord], spec: InputSpec, size: ImageSize) -> list[Remark]:
    """Return a remark on images of which the networks see an eighth of the side or less.

    Args:
        records: The training images.
        spec: The detector's input: of one size, of tiles, or of images of any size.
        size: The networks' image size.
    """
    height, width = both_sides(size)

    def factor(record: ImageRecord) -> float:
        sides = spec.seen if spec.fixed_size else (record.height, record.width)
        return math.sqrt(math.prod(sides) / (height * width))

    much = {record.path: found for record in records if (found := factor(record)) >= _MUCH}
    if not much:
        return []
    side = math.ceil(max(much.values()) * math.sqrt(_ENOUGH_PIXELS))
    text = (
        f"[image is|images are] reduced to {width} × {height} pixels, up to {max(much.values()):.0f} times a side: "
        f"defects smaller than about {side} × {side} of their pixels are likely to be missed; a larger image size, "
        "or tiles, show more"
    )
    return remark("reduced_much", text, much)
