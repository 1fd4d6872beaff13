"""Users for locust (https://locust.io), each of whom asks about one text after the other, for all tasks.

    TEXTS=texts.json locust -f benchmarks/serving/locustfile.py --headless -u 64 -r 64 -t 30s --host http://127.0.0.1:8080

TEXTS is a file with a JSON list of texts. `generators.py` runs it beside other generators of load.
"""

import itertools
import json
import os
from pathlib import Path

from locust import FastHttpUser, task

_texts = itertools.cycle(json.loads(Path(os.environ["TEXTS"]).read_text()))


class Reader(FastHttpUser):
    @task
    def ask(self) -> None:
        self.client.post("/predict", json={"text": next(_texts)})
