"""What the site takes from elsewhere in the repository.

The command line's reference, two pages, and the figures.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
FIGURES = "benchmarks/results"
# Pages of the site that are files of the repository's root.
PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and the figures of the benchmarks under ``images/``."""
    files.append(File.generated(config, "cli.md", content=command_reference()))
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for figure in sorted((ROOT / FIGURES).glob("*.png")):
        files.append(File.generated(config, f"images/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that lead out of ``docs/`` lead to the same content in the site."""
    markdown = markdown.replace(f"](../{FIGURES}/", "](images/")
    if page.file.src_uri in PAGES.values() or page.file.src_uri in PAGES:
        markdown = markdown.replace("](docs/", "](")
        for target, source in PAGES.items():
            markdown = markdown.replace(f"]({source})", f"]({target})")
    return markdown


def command_reference() -> str:
    """Return the reference of every command, as Typer writes it from the declarations."""
    arguments = ("kdx.cli.app", "utils", "docs", "--name", "kdx", "--title", "Command line")
    done = subprocess.run(
        [sys.executable, "-m", "typer", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    commands = re.findall(r"^## `kdx ([\w-]+)`\n\n(.+?)\n\n", done.stdout, re.MULTILINE | re.DOTALL)
    listed = "".join(f"- [`kdx {name}`](#kdx-{name}): {' '.join(says.split())}\n" for name, says in commands)
    # Typer's own list cuts every text off after 45 characters.
    return re.sub(r"(\*\*Commands\*\*:\n\n)(?:\* .*\n)+", lambda match: match[1] + listed, done.stdout, count=1)


class PlainRoles(griffe.Extension):
    """Docstrings without Sphinx's roles: ``:class:`Verdict``` is shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change a docstring before it is parsed.

        A role at a line's beginning would be read as a parameter.
        """
        if obj.docstring:
            obj.docstring.value = re.sub(r":(?:class|meth|func|attr|mod|data):(?=`)", "", obj.docstring.value)
