"""ShanghaiTech Campus: training videos or frames, test frames, and masks as .npy files."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from kd_train.datasets import categories, open_data, recognise, shanghaitech

WIDTH, HEIGHT = 64, 48
FRAMES = 12  # of which 0, 5 and 10 are used


@pytest.fixture
def save_video():
    av = pytest.importorskip("av", reason="decodes videos: pip install av")

    def save(path, frames):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=24)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_image(frame)))
            container.mux(stream.encode())

    return save


def write_test_clip(write, home, clip, anomalous):
    for index in range(FRAMES):
        write(home / f"frames/{clip}/{index:03d}.jpg", size=(WIDTH, HEIGHT), mode="RGB")
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for index in anomalous:
        masks[index, 4:20, index : index + 10] = 1
    for name, array in (("test_frame_mask", masks.any((1, 2)).astype(np.int8)), ("test_pixel_mask", masks)):
        (home / name).mkdir(exist_ok=True)
        np.save(home / name / f"{clip}.npy", array)


@pytest.fixture
def testing(write, tmp_path):
    home = tmp_path / "shanghaitech/testing"
    write_test_clip(write, home, "01_0014", range(3, 9))
    write_test_clip(write, home, "01_0015", ())
    write_test_clip(write, home, "02_0128", range(FRAMES))
    write_test_clip(write, home, "02_0129", ())
    return home


@pytest.fixture
def root(testing, write):
    """The data set with its training frames extracted."""
    home = testing.parent
    for clip in ("01_001", "01_002", "02_001", "13_001"):  # nothing of scene 13 is tested on
        for index in range(FRAMES):
            write(home / f"training/frames/{clip}/{index:03d}.jpg", size=(WIDTH, HEIGHT), mode="RGB")
    return home


@pytest.fixture
def videos(testing, picture, save_video):
    """The data set as downloaded, with training videos."""
    home = testing.parent
    (home / "training/videos").mkdir(parents=True)
    for number, clip in enumerate(("01_001", "01_002", "02_001")):
        frames = [picture(50 * number + index, (WIDTH, HEIGHT), "RGB") for index in range(FRAMES)]
        save_video(home / f"training/videos/{clip}.avi", frames)
    return home


def test_every_fifth_frame_of_the_videos(videos, counts, picture):
    folder = open_data(videos, "01")
    assert (folder.dataset, folder.category, folder.layout) == ("shanghaitech", "01", "shanghaitech")
    assert [path.name for path in folder.good] == [
        f"{clip}_{index:05d}.jpg" for clip in ("01_001", "01_002") for index in (0, 5, 10)
    ]
    assert counts(folder) == {"good": 5, "anomaly": 1}
    for path, number in zip(folder.good, (0, 5, 10, 50, 55, 60), strict=True):
        frame = np.asarray(Image.open(path).convert("L"), float)
        errors = [abs(frame - np.asarray(picture(n, (WIDTH, HEIGHT)), float)).mean() for n in (number, number + 1)]
        assert errors[0] < 6 < errors[1]  # the frame itself, but for the video's losses, and not its neighbour


def test_every_fifth_frame_of_extracted_frames(root, counts):
    folder = open_data(root, "01")
    assert [path.name for path in folder.good] == [
        f"{clip}_{index:05d}.jpg" for clip in ("01_001", "01_002") for index in (0, 5, 10)
    ]
    original = root / "training/frames/01_002/005.jpg"
    assert folder.good[4].read_bytes() == original.read_bytes()
    assert counts(folder) == {"good": 5, "anomaly": 1}


def test_frames_of_one_clip_are_held_out_together(root):
    folder = open_data(root, "01")
    assert [folder.parts[path.name] for path in folder.good] == ["clip 01_001"] * 3 + ["clip 01_002"] * 3
    assert open_data(root, "02").parts == {}  # there would be nothing left to train on


def test_masks_are_those_of_their_frames(root):
    image = next(image for image in open_data(root, "01").test if image.is_defective)
    assert image.path.name == "01_0014_00005.jpg"
    assert image.path.read_bytes() == (root / "testing/frames/01_0014/005.jpg").read_bytes()
    mask = np.asarray(Image.open(image.mask))
    assert np.array_equal(mask > 0, np.load(root / "testing/test_pixel_mask/01_0014.npy")[5] > 0)


def test_frames_are_ordered_by_number(root):
    clip = root / "training/frames/01_001"
    for path in list(clip.iterdir()):
        path.rename(clip / f"{int(path.stem) + 993}.jpg")  # 993 to 1004
    by_order = [clip / f"{993 + index}.jpg" for index in (0, 5, 10)]
    good = open_data(root, "01").good[:3]
    assert [path.read_bytes() for path in good] == [path.read_bytes() for path in by_order]


def test_facts(root):
    assert categories(root) == ("01", "02")
    assert (recognise(root).key, recognise(root).image_size) == ("shanghaitech", 256)
    assert "every fifth frame" in recognise(root).split


def test_scene_is_needed(root, refused):
    with refused("2 categories of ShanghaiTech Campus", "01, 02"):
        open_data(root)


def test_scene_that_is_not_tested_on(root, refused):
    with refused("no category '13'", "01"):
        open_data(root, "13")


def test_unpacked_once(root, tmp_path, monkeypatch):
    folder = open_data(root, "01")
    assert folder.root.parent == tmp_path / ".kdx-cache"
    monkeypatch.setattr(shanghaitech, "_unpack_test", None)
    assert open_data(root, "01") == folder


def test_unpacked_again_when_the_data_changed(root, write):
    before = open_data(root, "01")
    write(root / "training/frames/01_001/012.jpg", size=(WIDTH, HEIGHT), mode="RGB")
    assert open_data(root, "01").root != before.root


def test_without_pixel_masks_only_images_are_scored(root):
    shutil.rmtree(root / "testing/test_pixel_mask")
    folder = open_data(root, "01")
    assert [image.mask for image in folder.test] == [None] * 6


def test_missing_masks_of_one_clip(root, refused):
    (root / "testing/test_pixel_mask/01_0014.npy").unlink()
    with refused("test_pixel_mask/01_0014.npy' is missing", "(12, 48, 64)"):
        open_data(root, "01")


@pytest.mark.parametrize("name", ["test_frame_mask", "test_pixel_mask"])
@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_number_of_masks(root, refused, name, change):
    path = root / f"testing/{name}/01_0014.npy"
    array = np.load(path)
    np.save(path, array[:-1] if change < 0 else np.concatenate([array, array[:1]]))
    with refused(
        "01_0014.npy' does not fit the frames of its clip", "one entry for each frame", f"({FRAMES + change},"
    ):
        open_data(root, "01")
    assert not list((root.parent / ".kdx-cache").iterdir())


def test_masks_of_another_size(root, refused):
    path = root / "testing/test_pixel_mask/01_0014.npy"
    np.save(path, np.load(path)[:, ::2])
    with refused("does not fit the frames of its clip", "(12, 24, 64)"):
        open_data(root, "01")


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "pickle"])
def test_damaged_masks(root, refused, how):
    path = root / "testing/test_frame_mask/01_0014.npy"
    if how == "pickle":
        np.save(path, np.array([{}] * FRAMES, object), allow_pickle=True)
    else:
        path.write_bytes({"truncated": path.read_bytes()[:-3], "empty": b"", "text": b"0 1 0 1\n" * 30}[how])
    with refused("test_frame_mask/01_0014.npy' cannot be read"):
        open_data(root, "01")


def test_clip_without_frames(root, refused):
    for path in (root / "testing/frames/01_0014").iterdir():
        path.unlink()
    with refused("testing/frames/01_0014' has no frames"):
        open_data(root, "01")


def test_missing_test_split(root, refused):
    shutil.rmtree(root / "testing")
    with refused("'01' of ShanghaiTech Campus", "no test split", "testing/frames/01_*", "training/"):
        open_data(root, "01")


def test_scene_without_training_clips(root, refused):
    shutil.rmtree(root / "training/frames/02_001")
    with refused("'02' of ShanghaiTech Campus", "no good images"):
        open_data(root, "02")


def test_forbidden_clips(root, refused, forbid):
    forbid(root / "training/frames/01_001")
    with refused("permission denied", "01_001"):
        open_data(root, "01")


@pytest.mark.parametrize("how", ["text", "empty", "half"])
def test_damaged_video(videos, refused, how):
    path = videos / "training/videos/01_002.avi"
    data = path.read_bytes()
    path.write_bytes({"text": b"no video\n" * 100, "empty": b"", "half": data[: len(data) // 2]}[how])
    with refused("01_002.avi' cannot be decoded", "download the video again"):
        open_data(videos, "01")
    assert not list((videos.parent / ".kdx-cache").iterdir())


def test_videos_without_pyav(videos, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with refused("the package 'av'", "kdx[video]"):
        open_data(videos, "01")
