"""The program of multiprocessing's rows: python -m tests.operations.pool METHOD SIZE. Rounds come a line each."""

from __future__ import annotations

import json
import multiprocessing
import sys

# In the parent too, so that a fork inherits a provider that was used.
from tests.operations.shared import call

if __name__ == "__main__":
    call(False)
    with multiprocessing.get_context(sys.argv[1]).Pool(int(sys.argv[2])) as pool:
        for line in sys.stdin:
            count, is_void = json.loads(line)
            print(json.dumps(pool.map(call, [is_void] * count, chunksize=1)), flush=True)
