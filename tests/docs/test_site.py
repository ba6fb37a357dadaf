"""The documentation as a site: it builds, every link leads somewhere, and what is generated is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.reference import command_line

ROOT = Path(__file__).parent.parent.parent


class Page(HTMLParser):
    """Where a page leads to, what it loads, and what in it can be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if anchor := given.get("id"):
            self.anchors.add(anchor)
        if tag == "a" and (link := given.get("href")):
            self.links.append(link)
        if tag in ("script", "img", "iframe") and (source := given.get("src")):
            self.loads.append(source)
        if tag == "link" and given.get("rel") == "stylesheet" and (source := given.get("href")):
            self.loads.append(source)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_link_leads_somewhere_and_nothing_comes_from_elsewhere(site: Path) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 15
    for path, page in pages.items():
        for link in (*page.links, *page.loads):
            target, _, anchor = link.partition("#")
            if target.startswith("data:"):
                continue
            if re.match(r"https?:|mailto:", target):
                assert link in page.links, f"{path} loads {link}"
                continue
            place = (path.parent / target).resolve() if target else path
            place = place / "index.html" if place.is_dir() else place
            assert place.exists(), f"{path.relative_to(site)} leads to {link}"
            assert not anchor or anchor == "__codelineno-" or anchor in pages[place].anchors, f"{path} leads to {link}"


def test_the_reference_of_commands_is_that_of_the_program() -> None:
    written = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert written == command_line(), "run: make docs"
