"""`python -m conduit_oauth.devserver '{"port": 0}'`: for programs that start the server; people use the command line.

Reads the configuration as JSON and prints the base URL, alone on a line, when it is ready.
"""

import json
import sys

from . import DevServerConfig, serve

serve(DevServerConfig(**json.loads(sys.argv[1])), lambda url: print(url, flush=True))
