"""`make fuzz`: atheris, guided by coverage, on one target for a minute; new inputs join the kept corpus.

python -m tests.fuzz.run TARGET [SECONDS]
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["conduit_oauth"]):
    from tests.fuzz.targets import TARGETS

name, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
corpus = Path(__file__).parent / "corpus" / name
atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-timeout=5", "-max_len=4096", str(corpus)], TARGETS[name])
atheris.Fuzz()
