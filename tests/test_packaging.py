"""What is built from a checkout, and what the packages say of themselves."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kdx

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = ("kdx", "kd_train", "kd_export")
# Extras that need a GPU, or that benchmarks alone need.
UNTESTED = {"cuda", "tensorrt", "pycuda", "peers"}


@pytest.fixture(scope="module")
def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the built wheel."""
    builder = pytest.importorskip("hatchling.builders.wheel", reason="the build backend is not installed")
    folder = str(tmp_path_factory.mktemp("wheel"))
    (path,) = builder.WheelBuilder(str(ROOT)).build(directory=folder, versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_three_packages_and_their_data(wheel):
    tops = {name.split("/")[0] for name in wheel if ".dist-info/" not in name}
    assert tops == set(PACKAGES)
    assert "kd_train/recipes/stpm.toml" in wheel
    assert {f"kdx/workflows/report/page/page.{kind}" for kind in ("css", "html", "js")} <= set(wheel)
    assert {f"kdx/station/serve/page/{name}" for name in ("index.html", "page.css", "page.js")} <= set(wheel)


def test_type_checkers_read_the_annotations_of_all_three(wheel):
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel)


def test_classifiers_name_the_versions_of_python_that_are_supported(project):
    lowest, beyond = (
        int(minor) for minor in re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    )
    named = [one.rpartition("::")[2].strip() for one in project["classifiers"] if "Python :: 3." in one]
    assert named == [f"3.{minor}" for minor in range(lowest, beyond)]


@pytest.mark.parametrize("minor", range(10, 14))
def test_each_python_has_one_tested_version_of_each_package(project, minor):
    python = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0"}

    def named(lines: list[str]) -> list[str]:
        asked = [Requirement(line) for line in lines if not line.startswith("#")]
        return [canonicalize_name(one.name) for one in asked if one.marker is None or one.marker.evaluate(python)]

    pinned = named((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    assert len(pinned) == len(set(pinned))
    extras = [name for name in project["optional-dependencies"] if name not in UNTESTED]
    needed = named(
        [*project["dependencies"], *(each for name in extras for each in project["optional-dependencies"][name])]
    )
    assert set(needed) - {"kdx"} <= set(pinned)


def test_the_citation_names_this_version_and_licence(project):
    cited = dict(re.findall(r"^(\w+): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE))
    assert (cited["version"], cited["license"]) == (kdx.__version__, project["license"])
