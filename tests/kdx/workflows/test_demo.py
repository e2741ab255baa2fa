"""The demo's folder: only what an earlier demo wrote is replaced."""

from __future__ import annotations

import pytest

from kdx.errors import OutputError
from kdx.workflows.demo import BUNDLE, begin


def test_an_earlier_demo_is_replaced_when_asked_and_nothing_else(tmp_path):
    folder = tmp_path / "new/demo"
    begin(folder, force=False)
    written = [folder / name / "file" for name in ("data", "run", BUNDLE, "overlays")]
    for file in written:
        file.parent.mkdir()
        file.write_bytes(b"")
    (folder / "report.json").write_bytes(b"{}")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        begin(folder, force=False)
    assert all(file.exists() for file in written)
    begin(folder, force=True)
    assert sorted(file.name for file in folder.iterdir()) == [".kdx-demo", "notes.txt"]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_demo_is_left_alone(tmp_path, force):
    (tmp_path / "report.json").write_bytes(b"{}")
    with pytest.raises(OutputError, match="is not a demo"):
        begin(tmp_path, force=force)
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
