"""Does a backend decide the golden images on this machine as the reference did at export?

The reference is FP32 in eager PyTorch; its maps and scores are stored with the golden images. INT8
students, which were trained in that precision, have another one: the fake-quantised module, in
eager PyTorch too. Every load, the self-test, the choice of a backend and the certificate compare
with :class:`GoldenCheck`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from kdx.bundle.bundle import Bundle, Golden, read_reference
from kdx.bundle.manifest import Manifest
from kdx.decision.post_processing import PostProcessing, golden_post_processing
from kdx.errors import BackendError
from kdx.runtime.backend import Backend, largest_batch
from kdx.runtime.backend_table import runtime_of
from kdx.runtime.tiled import graph_backend
from kdx.verification.comparison import Comparison, compare_batch, describe_difference, describe_tolerances
from kdx.verification.tolerances import tolerances_of


@dataclass(frozen=True, eq=False)
class GoldenCheck:
    """Compares backends with the reference on a bundle's golden images, which are read once.

    Attributes:
        bundle: The bundle.
    """

    bundle: Bundle

    @cached_property
    def golden(self) -> Golden:
        """The golden images with the answers of FP32; raises ``BundleError`` if unreadable."""
        return self.bundle.golden()

    @cached_property
    def _golden_int8(self) -> Golden:
        maps, scores = read_reference(self.bundle, "int8")
        return replace(self.golden, maps=maps, scores=scores)

    def golden_of(self, precision: str) -> Golden:
        """Return the golden images with the answers that a precision is compared with.

        Raises:
            BundleError: They cannot be read.
        """
        return self._golden_int8 if self.bundle.manifest.is_own_reference(precision) else self.golden

    @cached_property
    def _post_processing(self) -> PostProcessing:
        return golden_post_processing(self.bundle)

    def certificate_batches(self, backend: Backend) -> list[int]:
        """Return the batch sizes at which a certificate compares a backend.

        An engine is compared at sizes that it was built for, which may be smaller than its graph's;
        see :func:`certificate_batches`.
        """
        most = largest_batch(graph_backend(backend), self.bundle.manifest.max_batch)
        return certificate_batches(len(self.golden.images), most)

    def compare(
        self, backend: Backend, precision: str, batches: Iterable[int] = (1,), *, runtime: str | None = None
    ) -> list[Comparison]:
        """Compare a backend's answers on the golden images with the reference's.

        Args:
            backend: Runs the bundle's graph. Of a bundle for large frames, the graph of the tiles
                is compared.
            precision: The precision of the graph.
            batches: Batch sizes to compare at; golden images are repeated to fill the last batch.
            runtime: The runtime whose thresholds decide; None for the backend's own.

        Raises:
            BundleError: The golden images cannot be read.
            BackendError: The backend failed.
        """
        return list(self._compare_each(backend, precision, batches, runtime))

    def _compare_each(
        self, backend: Backend, precision: str, batches: Iterable[int], runtime: str | None = None
    ) -> Iterator[Comparison]:
        manifest, golden = self.bundle.manifest, self.golden_of(precision)
        thresholds = thresholds_of(manifest, precision, runtime or runtime_of(backend.name))
        tolerances = tolerances_of(manifest, precision)
        graph = graph_backend(backend)
        for batch in batches:
            yield compare_batch(graph, golden, batch, thresholds, precision, self._post_processing, tolerances)

    def require(self, backend: Backend, precision: str, batches: Iterable[int] = (1,)) -> None:
        """Raise ``BackendError`` if a backend decides golden images differently from the reference.

        Args:
            backend: As for :meth:`compare`.
            precision: As for :meth:`compare`.
            batches: As for :meth:`compare`.
        """
        # The first difference is reported before another batch size runs, which might fail.
        failed = next((each for each in self._compare_each(backend, precision, batches) if not each.passed), None)
        if failed is None:
            return
        path, allowed = self.bundle.path, tolerances_of(self.bundle.manifest, precision)
        raise BackendError(
            f"'{path}' does not decide here what was trained",
            expected=f"{describe_tolerances(allowed)} on {failed.images} golden images",
            received=f"{failed.backend}, {precision}, batch {failed.batch}: {describe_difference(failed)}",
            fix=f"do not deploy this bundle here; kdx verify {path} shows the certificate",
        )


def certificate_batches(images: int, max_batch: int) -> list[int]:
    """Return the batch sizes of a certificate: single images and, if the backend takes it, several.

    Golden images are repeated where they are fewer. An uneven number meets no alignment by chance.
    """
    return [1] if max_batch == 1 else [1, min(max_batch, max(3, min(images, 7)))]


def thresholds_of(manifest: Manifest, precision: str, runtime: str) -> tuple[float, float] | None:
    """Return the reference's threshold and a precision's in a runtime; None unless both exist.

    INT8 students and their reference have the same. Also None where golden images are tiles and
    there is a level map: its scores are those of whole frames.
    """
    if manifest.tiling is not None and manifest.level_sha256 is not None:
        return None
    own = manifest.threshold_of(precision, runtime)
    exact = own if manifest.is_own_reference(precision) else manifest.threshold_of("fp32")
    return (exact.score, own.score) if exact and own else None
