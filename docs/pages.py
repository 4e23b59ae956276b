"""What the site has beyond docs/ (mkdocs calls this): the pages at the top of the repository, and one for each package.

The pages stay as they are read in the repository; only links that leave docs/ are turned here.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
PACKAGES = ("m2o_fast", "m2o_fast.ops", "m2o_fast.nn", "m2o_fast.metrics")
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):<code>~?(?:[\w.]*\.)?([^<]*)</code>")
SOURCE_LINK = re.compile(r"\[([^\]]+)\]\(\.\./(?:m2o_fast|csrc|cli|tests|benchmarks)[^)]*\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that do not lie in docs/."""
    for name, page in TOP.items():
        text = (ROOT / name).read_text().replace("](docs/", "](").replace("](README.md", "](index.md")
        files.append(File.generated(config, page, content=text))
    for package in PACKAGES:
        files.append(File.generated(config, f"reference/{package.split('.')[-1]}.md", content=reference(package)))
    return files


def reference(package: str) -> str:
    """A page of directives for mkdocstrings: all public names of a package, where each is defined."""
    module = import_module(package)
    lines = [f"# {package}\n", f"{(module.__doc__ or '').strip().splitlines()[0]}\n"]
    for name in module.__all__:
        found = getattr(module, name)
        if getattr(found, "__module__", "").startswith("m2o_fast"):  # not a version, nor an alias of a type
            lines.append(f"::: {found.__module__}.{found.__name__}\n")
    return "\n".join(lines)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the pages at the top lead to them; those to source files, which are not on the site, are words."""
    markdown = SOURCE_LINK.sub(r"\1", markdown)
    for name, page in TOP.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Sphinx's roles in docstrings become plain code."""
    return ROLE.sub(r"<code>\1</code>", html)
