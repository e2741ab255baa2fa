"""What a test does to processes that it cannot reach: files whose opening kills, stalls or fails a
child process.

``sitecustomize.py`` adds an audit hook to every Python process started while ``PYTHONPATH`` names
its folder. The hook sees each file that is opened, whoever opens it, so nothing in kdx is replaced.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.images import cell_paths

SIZE = 64  # of the tiny bundle's images

_HOOK = """
import errno, os, signal, sys, time

def hook(event, arguments):
    if event != "open" or not isinstance(arguments[0], (str, os.PathLike)):
        return
    path = os.fspath(arguments[0])
    name = os.path.basename(path)
    if name == "kills.png" or "/kills-at-load.kdx/" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "kills-once.png" and os.path.exists(path + ".armed"):
        os.unlink(path + ".armed")
        os.kill(os.getpid(), signal.SIGKILL)
    while name == "stalls.png" and os.path.exists(path + ".armed"):
        os.close(os.open(path + ".reached", os.O_CREAT))
        time.sleep(0.02)
    if name.startswith(".000001.parquet.") and os.path.exists(os.path.dirname(path) + "/../../full"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

sys.addaudithook(hook)
"""


def write_hook(folder: Path) -> Path:
    """Write the hook's module; return the folder for ``PYTHONPATH``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOOK, encoding="utf-8")
    return folder


def arm(path: Path) -> Path:
    """Let the next opening of a file kill or stall."""
    armed = path.with_name(path.name + ".armed")
    armed.touch()
    return armed


def add_image(path: Path, index: int = 20) -> Path:
    """Write a real image of the tiny bundle's size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(cell_paths()[index]).convert("L").resize((SIZE, SIZE)).save(path)
    return path
