"""The comparison that every load makes: does this backend, here, decide the golden images as the reference did?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kdx.bundle.bundle import Bundle, Golden
from kdx.decision.level_map import golden_behind
from kdx.errors import BackendError
from kdx.runtime.backend import Backend, runtime_of
from kdx.runtime.tiled import graph_backend

if TYPE_CHECKING:
    from kdx.verification.certificate import Comparison


def compare_golden(
    bundle: Bundle, backend: Backend, precision: str, *, golden: Golden | None = None, batch: int = 1
) -> Comparison:
    """Run the golden images through a backend, as ``kdx verify`` does at one batch size.

    Args:
        bundle: The bundle.
        backend: Holds its graph of the precision; of a bundle for large frames, the graph below the tiles is compared.
        precision: Of the graph.
        golden: The bundle's, where they were read already.
        batch: Images that go through the graph at once.

    Raises:
        BundleError: The golden images cannot be read.
        BackendError: The backend failed.
    """
    # Torch-free; imported here, for kdx is imported by programs that load nothing.
    from kdx.verification.certificate import compare_at, thresholds_of

    thresholds = thresholds_of(bundle.manifest, precision, runtime_of(backend.name))
    graph = graph_backend(backend)
    return compare_at(graph, golden or bundle.golden(), batch, thresholds, precision, golden_behind(bundle))


def require_golden(bundle: Bundle, backend: Backend, precision: str, batches: Iterable[int] = (1,)) -> None:
    """Refuse a backend that does not decide the golden images as the reference did.

    Args:
        bundle: The bundle.
        backend: As for :func:`compare_golden`.
        precision: Of the graph.
        batches: Batch sizes at which to compare.

    Raises:
        BundleError: The golden images cannot be read.
        BackendError: It scores them otherwise, by how much, or flips a verdict.
    """
    golden = bundle.golden()
    for batch in batches:
        compared = compare_golden(bundle, backend, precision, golden=golden, batch=batch)
        if not compared.passed:
            raise BackendError(
                f"'{bundle.path}' does not decide here what was trained",
                expected=f"{allowed_said(precision)} on {compared.images} golden images",
                received=f"{compared.backend}, {precision}, batch {batch}: {difference_said(compared)}",
                fix=f"do not deploy this bundle here; kdx verify {bundle.path} shows the certificate",
            )


def difference_said(compared: Comparison) -> str:
    """Say in words how far a backend is from the reference."""
    if compared.error:
        return compared.error
    flips = "no threshold yet" if compared.flips is None else f"{compared.flips} verdicts flipped"
    return f"scores off by {compared.score_max:.2g}, maps off by {compared.map_max:.2g}, {flips}"


def allowed_said(precision: str) -> str:
    """Say in words how far a backend may be from the reference, relatively."""
    from kdx.verification.certificate import TOLERANCES

    most = TOLERANCES[precision]
    return f"scores within {most.score:g}, maps within {most.map:g}, no verdict flipped"
