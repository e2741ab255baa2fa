"""What judges: the bundle, graph, backend and precision that verdicts are traced to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kdx.bundle.variants import graph_file
from kdx.storage.path_arguments import folder_name

if TYPE_CHECKING:
    from kdx.bundle.bundle import Bundle
    from kdx.runtime.detector import Detector


class JudgedBy(msgspec.Struct, frozen=True, kw_only=True):
    """What judges: a bundle as it is loaded here.

    Attributes:
        bundle: The name of the bundle's folder.
        bundle_sha256: The hash of its ``bundle.json``, which holds the hash of every file in it,
            and the threshold.
        graph_sha256: The hash of the graph.
        backend: The backend that runs the graph.
        precision: The precision of the graph.
        threshold_by_hand: Why a person set the threshold, in their words, or None.
    """

    bundle: str
    bundle_sha256: str
    graph_sha256: str
    backend: str
    precision: str
    threshold_by_hand: str | None = None

    @classmethod
    def of(cls, detector: Detector, bundle: Bundle) -> JudgedBy:
        """Return what a detector is, and the bundle that it was loaded from."""
        return cls(
            bundle=bundle_name(bundle),
            bundle_sha256=bundle.index_sha256,
            graph_sha256=bundle.manifest.files[graph_file(detector.precision)],
            backend=detector.backend.name,
            precision=detector.precision,
            threshold_by_hand=detector.threshold_by_hand,
        )


def bundle_name(bundle: Bundle) -> str:
    """Return the name of a bundle's folder, as text that files and metrics can hold.

    The folder may be given as ``.``, and its name may hold bytes that are not UTF-8.
    """
    return folder_name(bundle.path).encode("utf-8", "backslashreplace").decode()
