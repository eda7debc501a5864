"""What the documentation site needs beside MkDocs: formulas, links and examples.

The pages are written for a reader of the repository too: formulas stand between dollar signs or in fences
called math, and some links lead to files beside the folder docs. Docstrings have their examples as doctests.
"""

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">'
    r"(?:\\\((?P<inline>.*?)\\\)|\s*\\\[(?P<block>.*?)\\\]\s*)</(?P=tag)>",
    re.DOTALL,
)
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+((?!docs/)[^)#]+)[^)]*\)")
# A logarithm keeps its distance from what is no bracket.
LOGARITHM = re.compile(r"\\log(?![A-Za-z])\s*(?!\(|\\left|\s)")
LINK = re.compile(r'<[^>]*\b(?:href|src)="([^"]+)"')
REMOTE = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+")


class Doctests(Preprocessor):
    """Paragraphs that begin with >>> are code, and no quotations of quotations."""

    def run(self, lines: list[str]) -> list[str]:
        fenced: list[str] = []
        inside = False
        for line in [*lines, ""]:
            if not inside and line.startswith(">>> "):
                fenced.append("```pycon")
                inside = True
            elif inside and not line.strip():
                fenced.append("```")
                inside = False
            fenced.append(line)
        return fenced


class DoctestExtension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(Doctests(md), "doctests", 28)  # after white space, before fences


def on_config(config: Any) -> Any:
    config.markdown_extensions.append(DoctestExtension())
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files of the repository become their paths: the site does not hold them."""
    inside = Path(config.docs_dir, page.file.src_uri).parent

    def path(link: re.Match[str]) -> str:
        depth = link.group(0).count("../", 0, link.start(2) - link.start())
        if len(Path(page.file.src_uri).parts) > depth:  # still within docs
            return link.group(0)
        if not (inside / ("../" * depth) / link.group(2)).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {link.group(2)}, which is not there")
        return f"`{link.group(2)}`"

    return OUTSIDE.sub(path, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas become MathML, which browsers show by themselves."""

    def mathml(formula: re.Match[str]) -> str:
        block = formula.group("block")
        source = html.unescape(formula.group("inline") if block is None else block)
        source = LOGARITHM.sub(r"\\log\\,", source.strip())
        if block is None:
            return convert(source)
        return f'<div class="formula">{convert(source, display="block")}</div>'

    return FORMULA.sub(mathml, content)


def on_post_build(config: Any) -> None:
    """A page that would fetch something from another machine, or links to what is not there, is an error."""
    site = Path(config.site_dir)
    pages = {page.resolve(): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    for page, text in pages.items():
        if found := REMOTE.search(text):
            raise ValueError(f"{page} asks another machine: {found.group(0)}")
        if page.name == "404.html":  # its links begin at the root of the server
            continue
        for link in map(html.unescape, LINK.findall(text)):
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (page.parent / unquote(address.path)).resolve() if address.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                raise FileNotFoundError(f"{page} links to {link}, which is not there")
            place = unquote(address.fragment)
            if place and target in pages and f'id="{place}"' not in pages[target]:
                raise ValueError(f"{page} links to {link}, and that page has no such place")
