"""The task of Celery's row: each is one call."""

from __future__ import annotations

import json
import os

from celery import Celery

from tests.operations.facts import FACTS
from tests.operations.shared import call

_place = json.loads(os.environ[FACTS])["store"]
app = Celery("tasks", broker=_place, backend=_place)
app.task(name="call")(call)
