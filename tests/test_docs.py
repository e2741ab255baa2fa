"""What README and pages show is so: commands, options, programs, tables, links, and the site's own
list of pages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kdx

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
# Made when the site is built, see docs/hooks.py.
GENERATED = {"cli.md", "changelog.md", "contributing.md"}
# Of tests/kd_export/serving/test_client.py, which answers as a server would.
CLIENT_OF_TRITON = "docs/deployment/triton.md"
LONGEST = 100


def blocks(text: str, kinds: tuple[str, ...] = ("", "text")) -> list[str]:
    """Return the content of the fenced blocks of some kinds."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [body for kind, body in found if kind in kinds]


def command_lines() -> dict[str, list[tuple[str, str]]]:
    """Return the page and the text of every line with ``kdx COMMAND``, by command."""
    lines: dict[str, list[tuple[str, str]]] = {}
    for name, text in TEXTS.items():
        for body in blocks(text):
            for line, command in re.findall(r"^((?:.*&& )?kdx ([a-z-]+)[^#\n]*)", body, re.MULTILINE):
                lines.setdefault(command, []).append((name, line))
    return lines


@pytest.mark.parametrize(("command", "lines"), sorted(command_lines().items()), ids=lambda value: str(value)[:20])
def test_every_command_exists_with_its_options(command: str, lines: list[tuple[str, str]], cli, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # narrower, long options are cut off
    known = cli(command, "--help").stdout
    for page, line in lines:
        for option in re.findall(r" (--[a-z0-9-]+)", line):
            assert re.search(rf"{option}\b", known), f"{page}: kdx {command} has no {option}"


def test_every_command_of_the_command_line_is_shown() -> None:
    """In a block of commands, or in the text."""
    text = "\n".join(TEXTS.values())
    from kdx.cli.app import app

    names = [command.name for command in app.registered_commands]
    assert len(names) > 20
    assert [name for name in names if f"kdx {name}" not in text] == []


@pytest.fixture
def line_pc(tiny_bundle: Path, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the bundles and the key that the programs name."""
    for name in ("tile", "nut", "bolt"):
        shutil.copytree(tiny_bundle, tmp_path / f"{name}.kdx")
    monkeypatch.chdir(tmp_path)
    cli("sign", "--new-key", "line")
    cli("sign", "tile.kdx", "--key", "line.key")
    return tmp_path


@pytest.mark.parametrize(
    ("page", "program"),
    [
        pytest.param(page, program, id=f"{page}-{index}")
        for page, text in TEXTS.items()
        if not page.startswith("docs/guides/") and page != CLIENT_OF_TRITON
        for index, program in enumerate(blocks(text, ("python",)))
    ],
)
def test_every_program_runs(page: str, program: str, line_pc: Path, frame) -> None:
    code = compile(program, page, "exec")
    namespace: dict[str, object] = {"frame": frame}
    if 'backend="tensorrt"' in program:  # no engine is in the bundle
        with pytest.raises(kdx.KdxError, match="tensorrt"):
            exec(code, namespace)
        return
    exec(code, namespace)
    assert {"verdict", "verdicts", "detector"} & namespace.keys()


def test_the_minimal_program_is_the_one_that_is_built() -> None:
    source = (ROOT / "embed/examples/minimal/minimal.cpp").read_text(encoding="utf-8")
    assert source in blocks(TEXTS["docs/deployment/c-and-cpp.md"], ("cpp",))


def test_what_is_not_kdx_names_what_exists() -> None:
    """Lines of other programs: extras, benchmarks and options that the project really has."""
    extras = set(re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    cmake = (ROOT / "embed/CMakeLists.txt").read_text(encoding="utf-8")
    found = 0
    for page, text in TEXTS.items():
        for names in re.findall(r"(?:kdx|\.)\[([a-z,]+)\]", text):
            found += 1
            assert set(names.split(",")) <= extras, f"{page}: {names}"
        for option in re.findall(r"-D([A-Za-z_]+)=", text):
            found += 1
            assert option in cmake or option == "CMAKE_TOOLCHAIN_FILE", f"{page}: {option}"
        for file in re.findall(r"-DCMAKE_TOOLCHAIN_FILE=(\S+)", text):
            assert (ROOT / file).is_file(), f"{page}: {file}"
        for module in re.findall(r"python -m (benchmarks[\w.]*)", text):
            found += 1
            assert list(ROOT.glob(f"{module.replace('.', '/')}*")), f"{page}: {module}"
    assert found > 10


def test_tables_are_those_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "tables", "--check"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_table_is_shown_and_filled() -> None:
    from benchmarks.tables import TABLE_NAMES

    shown = [
        (name, body)
        for text in TEXTS.values()
        for name, body in re.findall(r"<!-- table (\w+) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    ]
    assert {name for name, _ in shown} == TABLE_NAMES
    assert all(len(body) > 200 or body.startswith("Not measured yet: ") for _, body in shown)


def test_links_lead_somewhere() -> None:
    for name, text in TEXTS.items():
        folder = PAGES[name].parent
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose):
            is_generated = folder == DOCS and target in GENERATED
            assert is_generated or (folder / target).exists(), f"{name}: {target}"


def test_the_site_lists_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"[\w/-]+\.md$", nav, re.MULTILINE)
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == written | GENERATED


def test_the_reference_lists_every_public_name() -> None:
    listed = re.findall(r"^::: kdx\.(\w+)$", TEXTS["docs/api.md"], re.MULTILINE)
    assert sorted([*listed, "__version__"]) == sorted(kdx.__all__)


def test_no_line_of_prose_is_too_long() -> None:
    for name, text in TEXTS.items():
        prose = re.sub(r"^```.*?^```$|<!-- table.*?<!-- end -->", "", text, flags=re.DOTALL | re.MULTILINE)
        for line in prose.splitlines():
            is_prose = not line.startswith(("|", "#", "![", "<!--"))
            assert len(line) <= LONGEST or not is_prose, f"{name}: {line}"
