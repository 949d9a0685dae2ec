"""`colbert-rerank serve` as a process, for as long as a test needs it."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

WAIT = 120  # seconds, on a busy machine


class Running:
    def __init__(self, process: subprocess.Popen[str], url: str, said: str) -> None:
        self.process = process
        self.host, self.port = url.removeprefix("http://").rsplit(":", 1)
        self.said = said

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host.strip("[]"), int(self.port), timeout=WAIT)

    def ask(self, body: object, path: str = "/v1/stores/real/rerank", **headers: str) -> tuple[int, Any]:
        with closing(self.connect()) as connection:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def metrics(self) -> str:
        with closing(self.connect()) as connection:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()


@contextmanager
def running(folder: Path, *options: str, **environment: str) -> Iterator[Running]:
    """With the store as ``real``; on one thread, as the tests' networks are small, unless ``environment`` has more."""
    arguments = [sys.executable, "-m", "colbert_rerank", "serve", "--store", f"real={folder}", "--port", "0", *options]
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if found := re.search(r"listening at (http://\S+?),? ", line):
                yield Running(process, found[1], line)
                break
        else:
            raise AssertionError(said)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT)
        process.stderr.close()
