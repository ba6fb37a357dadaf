"""How the programs of frameworks are told what to do."""

from __future__ import annotations

# The variable with the settings of the provider, and with whether it is supervised.
FACTS = "CONDUIT_OAUTH_OPERATIONS"
