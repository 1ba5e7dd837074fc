"""An oracle whose process dies of one picture, and is started again: `python -I mortal_oracle.py PORT`.

The standard library only: it starts in no time. What it dies of is the picture `BBB`; everything else is worth 0.5.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

POISON = b"BBB"
INFO = {
    "name": "object_count",
    "version": "1",
    "reward_min": 0.0,
    "reward_max": 1.0,
    "media_types": ["application/x-raw-rgb"],
    "max_batch": 8,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(INFO)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if b"\r\n\r\n" + POISON + b"\r\n" in body:
            os._exit(1)
        batch = json.loads(body.partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0])
        ids = [item["sample"]["sample_id"] for item in batch["items"]]
        results = [{"kind": "scored", "sample_id": sample_id, "reward": 0.5, "detail": {}} for sample_id in ids]
        self._answer({"oracle": INFO["name"], "version": INFO["version"], "results": results})

    def _answer(self, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def main(port: int) -> None:
    while True:
        child = os.fork()
        if child == 0:
            ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
        os.waitpid(child, 0)
        time.sleep(0.1)  # it takes a while to come back, as a process does


if __name__ == "__main__":
    main(int(sys.argv[1]))
