"""`make lint`: the length of the sentences of README and docs, and phrases that we do not use.

A table cell, a heading and a code block are no sentences. Each item of a list begins a sentence.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MEDIAN, NINTH_TENTH = 14, 25
REFUSED = {
    "told apart": "distinguished",
    "is over": "has ended",
    "in vain": "without success",
    "somebody": "another client, process or user: name it",
    "will not do": "is invalid",
    "law:": "Invariant:",
}
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_ASIDE = re.compile(r"^(#|\||!|<|---)|^\s*$")
_ITEM = re.compile(r"\s*([-*]|\d+\.)\s+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_END = re.compile(r"(?<=[.!?])[\"')*`]*\s+(?=[\"'(*`\[A-Z0-9])")


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page of Markdown."""
    paragraph: list[str] = []
    for line in [*_CODE.sub("", text).splitlines(), ""]:
        begins = _ITEM.match(line)
        if paragraph and (begins or _ASIDE.match(line)):
            yield from _END.split(_LINK.sub(r"\1", " ".join(paragraph)))
            paragraph = []
        if not _ASIDE.match(line):
            paragraph.append(line[begins.end() :] if begins else line.strip())


def words(sentence: str) -> int:
    """How many words a reader reads; what stands in backquotes is one."""
    return len(re.sub(r"`[^`]*`", "x", sentence).split())


def main() -> int:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    wrong = False
    for page in pages:
        counts = [words(sentence) for sentence in sentences(page.read_text(encoding="utf-8"))]
        if len(counts) < 5:
            continue
        median, longest = statistics.median(counts), statistics.quantiles(counts, n=10)[-1]
        too_long = median > MEDIAN or longest > NINTH_TENTH
        wrong |= too_long
        if too_long or "-v" in sys.argv:
            print(f"{page.relative_to(ROOT)}: median {median:.0f} words, 90th percentile {longest:.0f}")
    for file in [*pages, *sorted((ROOT / "src").rglob("*.py"))]:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            for phrase in [phrase for phrase in REFUSED if phrase in line.lower()]:
                wrong = True
                print(f"{file.relative_to(ROOT)}:{number}: write {REFUSED[phrase]!r} for {phrase!r}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
