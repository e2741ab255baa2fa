"""ShanghaiTech Campus: every fifth frame of surveillance videos of a dozen scenes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_train.datasets.layout import AGAIN, DatasetInfo, Layout, Location, is_folder
from kd_train.datasets.unpack import Unpacker
from kd_train.datasets.video import every_nth_frame
from kdx.errors import DataError
from kdx.folders.data_folder import GOOD, ImageFolder, folders, image_files, open_folder
from kdx.folders.image_search import entries
from kdx.imaging.images import encode_png, read_header
from kdx.progress import track

STEP = 5
_ANOMALY = "anomaly"
_CLIP = re.compile(r"(\d\d)_\d+")
_VIDEOS = frozenset({".avi", ".mp4"})


def _find(root: Path) -> Location | None:
    parts = ("training/videos", "training/frames", "testing/frames")
    return Location(root) if any(is_folder(root / part) for part in parts) else None


def _categories(home: Path) -> tuple[str, ...]:
    """Return the scenes with test clips; one more scene has training videos only."""
    clips = _test_clips(home) or _train_clips(home)
    return tuple(sorted({clip.name[:2] for clip in clips}))


def _train_clips(home: Path) -> list[Path]:
    """Return the training clips: folders of extracted frames, or else the videos."""
    extracted = [path for path in folders(home / "training/frames") if _CLIP.fullmatch(path.name)]
    if extracted or not is_folder(home / "training/videos"):
        return extracted
    videos = entries(home / "training/videos")
    return [path for path in videos if path.suffix.lower() in _VIDEOS and _CLIP.fullmatch(path.stem)]


def _test_clips(home: Path) -> list[Path]:
    return [path for path in folders(home / "testing/frames") if _CLIP.fullmatch(path.name)]


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    train = [path for path in _train_clips(home) if path.name.startswith(f"{category}_")]
    test = [path for path in _test_clips(home) if path.name.startswith(f"{category}_")]
    if not train or not test:  # require_complete reports it, as for every data set
        return ImageFolder(home, "shanghaitech", tuple(train), ())
    masks = [path for clip in test for path in (_frame_labels(home, clip), _pixel_masks(home, clip)) if path.exists()]
    facts = (STEP, [(path.relative_to(home).as_posix(), *_facts(path)) for path in (*train, *test, *masks)])

    def unpack(target: Path) -> None:
        clips = track(unpacker.progress, (*train, *test), f"unpacking scene {category}", len(train) + len(test))
        for index, clip in enumerate(clips):
            if index < len(train):
                _unpack_training(clip, target / "train" / GOOD)
            else:
                _unpack_test(home, clip, target)

    root = unpacker.folder(home, f"shanghaitech-{category}", facts, unpack)
    folder = replace(open_folder(root), layout="shanghaitech")
    if len(train) == 1:
        return folder
    # Frames of one clip resemble each other: they are held out together.
    return replace(folder, parts={path.name: f"clip {path.stem.rpartition('_')[0]}" for path in folder.good})


def _facts(path: Path) -> tuple[int, int]:
    """Return a source's size (or number of files) and date, by which changes are noticed."""
    facts = path.stat()
    return (len(entries(path)) if path.is_dir() else facts.st_size), facts.st_mtime_ns


def _unpack_training(clip: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if clip.is_dir():
        for index, frame in _every_nth_file(clip):
            shutil.copyfile(frame, folder / f"{clip.name}_{index:05d}{frame.suffix}")
        return
    for index, image in every_nth_frame(clip, STEP):
        # The videos are lossy and the published test frames are JPEG files; PNG would take five
        # times the space.
        image.save(folder / f"{clip.stem}_{index:05d}.jpg", quality=95, subsampling=0)


def _unpack_test(home: Path, clip: Path, target: Path) -> None:
    frames = _frames(clip)
    is_anomalous = _read_array(_frame_labels(home, clip), (len(frames),))
    # Either all clips have masks or none; without masks, image scores can still be evaluated.
    has_masks = is_folder(home / "testing/test_pixel_mask")
    width, height, _ = read_header(frames[0])
    masks = _read_array(_pixel_masks(home, clip), (len(frames), height, width)) if has_masks else None
    for index, frame in _every_nth_file(clip):
        kind = _ANOMALY if is_anomalous[index] else GOOD
        name = f"{clip.name}_{index:05d}"
        (target / "test" / kind).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(frame, target / "test" / kind / f"{name}{frame.suffix}")
        if masks is not None and kind == _ANOMALY:
            folder = target / "ground_truth" / kind
            folder.mkdir(parents=True, exist_ok=True)
            mask = (np.asarray(masks[index]) != 0).astype(np.uint8)[..., None] * np.uint8(255)
            (folder / f"{name}_mask.png").write_bytes(encode_png(mask))


def _every_nth_file(clip: Path) -> list[tuple[int, Path]]:
    return list(enumerate(_frames(clip)))[::STEP]


def _frames(clip: Path) -> list[Path]:
    """Return a clip's frames in order; the frame numbers of one clip may differ in length."""
    frames = sorted(image_files(clip), key=lambda path: (len(path.stem), path.stem))
    if not frames:
        raise DataError(
            f"the clip '{clip}' has no frames",
            expected="000.jpg, 001.jpg and so on",
            received="no images",
            fix=AGAIN,
        )
    return frames


def _frame_labels(home: Path, clip: Path) -> Path:
    return home / "testing/test_frame_mask" / f"{clip.name}.npy"


def _pixel_masks(home: Path, clip: Path) -> Path:
    return home / "testing/test_pixel_mask" / f"{clip.name}.npy"


def _read_array(path: Path, shape: Sequence[int]) -> NDArray[np.generic]:
    """Read a ``.npy`` file of a known shape.

    Raises:
        DataError: The file is missing, cannot be read, is damaged, or has another shape.
    """
    expected = f"a .npy file of numbers, shape {tuple(shape)}: one entry for each frame of the clip"
    try:
        # Memory-mapped: the masks of one clip take hundreds of megabytes, and only every fifth is
        # used.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        state = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise DataError(f"'{path}' {state}", expected=expected, received=str(error), fix=AGAIN) from error
    if not isinstance(array, np.ndarray) or array.shape != tuple(shape) or array.dtype.kind not in "biuf":
        received = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(
            f"'{path}' does not fit the frames of its clip", expected=expected, received=received, fix=AGAIN
        )
    return array


LAYOUT = Layout(
    DatasetInfo(
        key="shanghaitech",
        title="ShanghaiTech Campus",
        source="W. Luo, W. Liu, S. Gao: A revisit of sparse coding based anomaly detection in stacked RNN framework. "
        "ICCV 2017; with the pixel masks of W. Liu, W. Luo, D. Lian, S. Gao: Future frame prediction. CVPR 2018.",
        image_size=256,
        split="as published, every fifth frame of each clip: training for training, testing for testing; frames that "
        "test_frame_mask marks are defective",
    ),
    looked_for="ShanghaiTech Campus: training/videos/01_*.avi or training/frames/01_*, testing/frames/01_*, "
    "testing/test_frame_mask/*.npy, testing/test_pixel_mask/*.npy",
    find=_find,
    categories=_categories,
    open=_open,
)
