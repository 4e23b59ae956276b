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
PACKAGES = ("m2o_fast.ops", "m2o_fast.nn", "m2o_fast.metrics")
API = "api.md"  # ends with the public names of m2o_fast itself
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
    first = (import_module(package).__doc__ or "").strip().splitlines()[0]
    return f"# {package}\n\n{first}\n\n{directives(package)}"


def directives(package: str) -> str:
    """One for each public name, where it is defined."""
    module = import_module(package)
    found = [getattr(module, name) for name in module.__all__]
    # not a version, nor an alias of a type
    ours = [one for one in found if getattr(one, "__module__", "").startswith("m2o_fast")]
    return "\n".join(f"::: {one.__module__}.{one.__name__}\n" for one in ours)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to the pages at the top lead to them; those to source files, which are not on the site, are words."""
    if page.file.src_uri == API:
        markdown += f"\n{directives('m2o_fast')}"
    markdown = SOURCE_LINK.sub(r"\1", markdown)
    for name, page in TOP.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Sphinx's roles in docstrings become plain code."""
    return ROLE.sub(r"<code>\1</code>", html)
