"""Builds ``embed/`` for the tests, runs ctest, and calls the library through the structures of its
header."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kdx.runtime.backend_table import find_backend

EMBED = Path(__file__).parents[2] / "embed"
REASONS = (None, "not_finite", "below_range", "no_threshold", "other_region", "frame", "score_mismatch")
DECISIONS = ("undecided", "good", "defective", "review")
# The precisions in which the library runs graphs on this machine.
PRECISIONS = ("fp32", *(("bf16",) if find_backend("openvino").offers("bf16") else ()), "int8")
FAULTS = {
    1: "black", 2: "white", 4: "uniform", 8: "saturated", 16: "dark", 32: "bright",
    64: "flat", 128: "noise", 256: "smooth", 512: "partly_black",
}  # fmt: skip


def missing() -> str:
    """Return what is missing for building the library; empty for nothing."""
    if sys.platform != "linux":
        return "embed/ is tested on Linux"
    tools = [tool for tool in ("cmake", "ctest", "ninja", "c++") if shutil.which(tool) is None]
    packages = [name for name in ("openvino", "nlohmann_json") if find_spec(name) is None]
    return f"not installed: {', '.join((*tools, *packages))}" if tools or packages else ""


def signatures_missing(built: Path) -> str:
    """Return why a library cannot check signatures; empty if it can."""
    cache = (built / "CMakeCache.txt").read_text(encoding="utf-8")
    found = "OPENSSL_INCLUDE_DIR:PATH=/" in cache and "KDX_WITH_OPENSSL:STRING=OFF" not in cache
    return "" if found else "OpenSSL's headers are not installed (libssl-dev)"


def run(
    *command: object, code: int | None = 0, timeout: float = 1800, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program; ``code`` is the exit status it must have (None: any)."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        env={**os.environ, **environment},
    )
    if code is not None:
        assert done.returncode == code, (
            f"{command}\nexit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
        )
    return done


def build(folder: Path, targets: Sequence[str], *options: str) -> Path:
    """Configure and build; return the build folder."""
    # With one translation unit a target, headers of the runtime and JSON are compiled once. To
    # optimise as far as a release does takes longer than the tests gain.
    run("cmake", "-S", EMBED, "-B", folder, "-G", "Ninja", f"-DPython3_EXECUTABLE={sys.executable}",
        "-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",
        *options)  # fmt: skip
    run("cmake", "--build", folder, "--target", *targets)
    return folder


def ctest(folder: Path, *options: str, timeout: float = 1800, **environment: str) -> dict[str, str]:
    """Run the C and C++ tests of a build folder.

    Args:
        folder: The build folder.
        options: Of ctest, for example ``-L threads``.
        timeout: Seconds for all tests.
        environment: Variables for the tests: ``KDX_TEST_BUNDLE``, ``KDX_TEST_KEY``.

    Returns:
        Passed or Skipped by the name of a test. A test that failed raises an AssertionError.
    """
    command = ("ctest", "--test-dir", folder, "--output-on-failure", "--no-tests=error", *options)
    done = run(*command, timeout=timeout, **environment)
    return dict(re.findall(r"Test +#\d+: (\S+) \.+ *(?:\*\*\*)?(\w+)", done.stdout))


class Options(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("backend", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("cache_dir", ctypes.c_char_p),
        ("device", ctypes.c_int32),
        ("batch_sizes", ctypes.POINTER(ctypes.c_int32)),
        ("batch_size_count", ctypes.c_size_t),
    )


class Description(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("height", ctypes.c_int32), ("width", ctypes.c_int32), ("channels", ctypes.c_int32),
        ("format", ctypes.c_int32),
        ("map_height", ctypes.c_int32), ("map_width", ctypes.c_int32),
        ("max_batch", ctypes.c_int32),
        ("threshold", ctypes.c_double), ("review_threshold", ctypes.c_double),
        ("pixel_threshold", ctypes.c_double), ("field_of_view", ctypes.c_double),
        ("backend", ctypes.c_char * 24), ("precision", ctypes.c_char * 8),
        ("roi", ctypes.c_int32),
        ("said", ctypes.c_char * 256),
        ("threshold_by_hand", ctypes.c_char * 256),
        ("crop_left", ctypes.c_int32), ("crop_top", ctypes.c_int32),
        ("crop_width", ctypes.c_int32), ("crop_height", ctypes.c_int32),
    )  # fmt: skip


class Image(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("height", ctypes.c_int32), ("width", ctypes.c_int32), ("format", ctypes.c_int32),
        ("row_stride", ctypes.c_int64),
    )  # fmt: skip


class Buffer(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("height", ctypes.c_int32), ("width", ctypes.c_int32),
        ("pixel_format", ctypes.c_char_p),
        ("data", ctypes.c_char_p), ("size", ctypes.c_size_t),
        ("row_stride", ctypes.c_int64),
    )  # fmt: skip


class Map(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("row_stride", ctypes.c_int64))


class Verdict(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("decision", ctypes.c_int32),
        ("frame_faults", ctypes.c_uint32),
        ("score", ctypes.c_float),
        ("threshold", ctypes.c_double),
        ("margin", ctypes.c_double),
        ("reason", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("relative_score", ctypes.c_double),
        ("p_value", ctypes.c_double),
        ("held_out_images", ctypes.c_int64),
    )


class Region(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_double)
        for name in ("area", "area_mm2", "top", "left", "height", "width", "peak", "peak_row", "peak_column")
    )


class Report(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("passed", ctypes.c_int32), ("images", ctypes.c_int32), ("flips", ctypes.c_int32),
        ("score_difference", ctypes.c_double), ("score_allowed", ctypes.c_double),
        ("map_difference", ctypes.c_double), ("map_allowed", ctypes.c_double),
        ("latency_ms", ctypes.c_double), ("median_ms", ctypes.c_double),
        ("calls", ctypes.c_int32), ("said", ctypes.c_char * 256),
    )  # fmt: skip


class CallError(Exception):
    """A call did not return KDX_OK."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Detector:
    """``kdx_open`` to ``kdx_close``."""

    def __init__(
        self,
        library: Path,
        bundle: Path,
        precision: str | None = None,
        threads: int = 1,
        cache: Path | None = None,
        batch_sizes: Sequence[int] = (),
        require_signature: Sequence[object] | None = None,
    ):
        self._library = ctypes.CDLL(str(library))
        self._library.kdx_last_error.restype = ctypes.c_char_p
        self._library.kdx_selftest.argtypes = (
            ctypes.c_void_p, ctypes.c_double, ctypes.c_double, ctypes.c_int32, ctypes.c_void_p
        )  # fmt: skip
        self._library.kdx_regions.argtypes = (
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_double, ctypes.c_double, ctypes.c_double, ctypes.c_size_t,
            ctypes.c_void_p, ctypes.c_void_p,
        )  # fmt: skip
        self._handle = ctypes.c_void_p()
        sizes = (ctypes.c_int32 * len(batch_sizes))(*batch_sizes)
        options = Options(
            ctypes.sizeof(Options), threads, None, precision.encode() if precision else None,
            str(cache).encode() if cache else None, 0, sizes, len(sizes),
        )  # fmt: skip
        given = (str(bundle).encode(), ctypes.byref(options))
        if require_signature is None:
            self._check(self._library.kdx_open(*given, ctypes.byref(self._handle)))
        else:
            keys = [key if isinstance(key, bytes) else str(key).encode() for key in require_signature]
            array = (ctypes.c_char_p * len(keys))(*keys)
            count = ctypes.c_size_t(len(keys))
            self._check(self._library.kdx_open_signed(*given, array, count, ctypes.byref(self._handle)))
        self.takes = Description(ctypes.sizeof(Description))
        self._check(self._library.kdx_describe(self._handle, ctypes.byref(self.takes)))

    def __call__(self, image: np.ndarray, roi: np.ndarray | None = None) -> tuple[Verdict, np.ndarray]:
        """Judge one packed image ``(H, W, C)`` in the bundle's region of interest, or in
        another."""
        verdict = Verdict(ctypes.sizeof(Verdict))
        return verdict, self.call(image, verdict, roi)

    def call(self, image: np.ndarray, verdict: Verdict, roi: np.ndarray | None = None) -> np.ndarray:
        """Judge one packed image into a caller's verdict, and return its map."""
        anomaly_map = np.empty((self.takes.map_height, self.takes.map_width), np.float32)
        view = Image(image.ctypes.data, *image.shape[:2], self.takes.format, 0)
        target = Map(anomaly_map.ctypes.data, 0)
        if roi is None:
            status = self._library.kdx_infer(self._handle, *(ctypes.byref(each) for each in (view, verdict, target)))
        else:
            mask = Image(roi.ctypes.data, *roi.shape, 3, 0)
            given = (ctypes.byref(each) for each in (view, mask, verdict, target))
            status = self._library.kdx_infer_roi(self._handle, *given)
        self._check(status)
        return anomaly_map

    def decode(
        self, data: bytes, pixel_format: str, width: int, height: int, target: np.ndarray | None = None
    ) -> np.ndarray:
        """Decode a camera's buffer into an image that the detector accepts."""
        if target is None:
            target = np.empty((self.takes.height, self.takes.width, self.takes.channels), np.uint8)
        buffer = Buffer(ctypes.sizeof(Buffer), height, width, pixel_format.encode(), data, len(data), 0)
        image = Image()
        self._library.kdx_decode.argtypes = (ctypes.c_void_p,) * 3 + (ctypes.c_size_t, ctypes.c_void_p)
        status = self._library.kdx_decode(
            self._handle, ctypes.addressof(buffer), target.ctypes.data, target.size, ctypes.addressof(image)
        )
        assert (image.data == target.ctypes.data) == (status == 0)
        self._check(status)
        assert (image.height, image.width, image.format) == (*target.shape[:2], self.takes.format)
        return target

    def batch(self, images: Sequence[np.ndarray]) -> list[Verdict]:
        """Judge several packed images at once."""
        verdicts = (Verdict * len(images))(*(Verdict(ctypes.sizeof(Verdict)) for _ in images))
        views = (Image * len(images))(*(Image(i.ctypes.data, *i.shape[:2], self.takes.format, 0) for i in images))
        self._library.kdx_infer_batch.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_void_p,) * 3)
        self._check(self._library.kdx_infer_batch(self._handle, len(images), views, verdicts, None))
        return list(verdicts)

    def regions(
        self,
        anomaly_map: np.ndarray,
        threshold: float,
        min_area: float = 0.0,
        pixel_size_um: float = 0.0,
        room: int = 64,
    ) -> tuple[int, list[Region]]:
        """Return the number of regions, and as many of them as ``room`` allows."""
        found, count = (Region * max(room, 1))(), ctypes.c_size_t()
        view = Map(anomaly_map.ctypes.data, 0)
        self._check(
            self._library.kdx_regions(
                self._handle, ctypes.byref(view), threshold, min_area, pixel_size_um, room, found, ctypes.byref(count)
            )
        )
        return count.value, list(found)[: min(room, count.value)]

    def selftest(self, budget_ms: float = 0.0, percentile: float = 90.0, calls: int = 10) -> Report:
        report = Report(ctypes.sizeof(Report))
        self._check(self._library.kdx_selftest(self._handle, budget_ms, percentile, calls, ctypes.byref(report)))
        return report

    def _check(self, status: int) -> None:
        if status:
            raise CallError(status, self._library.kdx_last_error().decode())

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.kdx_close(self._handle)
