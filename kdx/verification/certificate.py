"""The certificate: does what is deployed decide what was trained?

Every backend is compared with the reference on real images: per output and per decision, with
single images and at another batch size. It needs no PyTorch: the outputs of the reference are
stored in the bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec

from kdx.bundle.bundle import Bundle
from kdx.bundle.teacher_comparison import TeacherComparison
from kdx.bundle.variants import Judged
from kdx.errors import BackendError, InputError
from kdx.monitoring.judged_by import bundle_name
from kdx.runtime.backend_table import BackendInfo
from kdx.verification.comparison import Comparison
from kdx.verification.golden import GoldenCheck
from kdx.verification.tolerances import Tolerances, tolerances_of


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a verification.

    Attributes:
        bundle: The name of the bundle's folder.
        graph_sha256: Hash of each graph that was compared, by precision.
        threshold: The threshold at which decisions were compared, or None.
        threshold_by_hand: Why a person set that threshold, in their words, or None.
        tolerances: What was allowed, by precision.
        references: The precision of the PyTorch module that each precision was compared with:
            ``fp32``, or ``int8`` for the fake-quantised module that INT8 students were trained as.
        comparisons: One for each backend, precision and batch size.
        judged: For BF16 and INT8, what their gate found at export, and the bounds that follow.
        teacher_comparisons: What a compact teacher sees of defects, compared with each of its
            sources when it was made; it decides nothing here.
        not_compared: The precisions of the bundle of which nothing is said, because no backend that
            was asked for runs them on this machine.
        passed: Whether every comparison passed, and there was at least one.
    """

    bundle: str
    graph_sha256: dict[str, str]
    threshold: float | None
    tolerances: dict[str, Tolerances]
    comparisons: list[Comparison]
    judged: dict[str, list[Judged]] = {}
    teacher_comparisons: list[TeacherComparison] = []
    references: dict[str, str] = {}
    threshold_by_hand: str | None = None
    not_compared: list[str] = []
    passed: bool

    def reference_of(self, precision: str) -> str:
        """Return in words what a precision was compared with."""
        is_own = self.references.get(precision) == "int8"
        return "the fake-quantised PyTorch module" if is_own else "FP32 PyTorch"


def verify(
    bundle: Bundle,
    backends: Sequence[BackendInfo],
    *,
    threads: int | None = None,
    precisions: Sequence[str] | None = None,
) -> Certificate:
    """Compare each backend with the reference, in every precision of both or in those named.

    Raises:
        BundleError: The golden images cannot be read, or the bundle has no graph of a precision.
    """
    check = GoldenCheck(bundle)
    _ = check.golden  # read before any engine is opened; raises if it cannot be
    wanted = list(precisions or bundle.manifest.precisions)
    comparisons: list[Comparison] = []
    for info, precision in _pairs(bundle, backends, wanted):
        try:
            with info.open(bundle.graph_of(precision), threads, precision) as backend:
                batches = check.certificate_batches(backend)
                comparisons += check.compare(backend, precision, batches, runtime=info.runtime)
        except (BackendError, InputError) as error:  # the latter: an engine that does not take the golden images
            reason = "; ".join(part for part in (error.message, error.received, error.fix) if part)
            comparisons.append(Comparison(backend=info.name, precision=precision, batch=1, images=0, error=reason))
    manifest = bundle.manifest
    ran = {each.precision for each in comparisons}
    not_compared, wanted = [each for each in wanted if each not in ran], [each for each in wanted if each in ran]
    threshold = manifest.threshold_of("fp32")
    return Certificate(
        bundle=bundle_name(bundle),
        graph_sha256={precision: bundle.graph_of(precision).sha256 for precision in wanted},
        threshold=threshold.score if threshold else None,
        threshold_by_hand=threshold.reason if threshold else None,
        tolerances={precision: tolerances_of(manifest, precision) for precision in wanted},
        references={precision: precision if manifest.is_own_reference(precision) else "fp32" for precision in wanted},
        comparisons=comparisons,
        judged={name: each.judged for name, each in manifest.variants.items() if name in wanted and each.judged},
        teacher_comparisons=manifest.provenance.teacher_comparisons,
        not_compared=not_compared,
        passed=bool(comparisons) and all(comparison.passed for comparison in comparisons),
    )


def without(certificate: Certificate, precisions: Collection[str]) -> Certificate:
    """Return a certificate of all precisions except some."""
    comparisons = [each for each in certificate.comparisons if each.precision not in precisions]
    return msgspec.structs.replace(
        certificate,
        graph_sha256={name: each for name, each in certificate.graph_sha256.items() if name not in precisions},
        tolerances={name: each for name, each in certificate.tolerances.items() if name not in precisions},
        references={name: each for name, each in certificate.references.items() if name not in precisions},
        comparisons=comparisons,
        judged={name: each for name, each in certificate.judged.items() if name not in precisions},
        not_compared=[name for name in certificate.not_compared if name not in precisions],
        passed=bool(comparisons) and all(each.passed for each in comparisons),
    )


def _pairs(
    bundle: Bundle, backends: Sequence[BackendInfo], precisions: Sequence[str]
) -> Iterator[tuple[BackendInfo, str]]:
    """Yield each backend with each precision; if it runs engines, with those built for here."""
    for info in backends:
        offered = [precision for precision in precisions if info.offers(precision)]
        built = [precision for precision in offered if info.offers(precision, bundle.graph_of(precision))]
        for precision in built or offered:  # without an engine, the comparison says how to build one
            yield info, precision
