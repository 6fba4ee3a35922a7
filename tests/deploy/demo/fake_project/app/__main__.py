import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        live = json.loads((Path(os.environ["NAISEKI_STORE"]) / "labels.json").read_text())["live"]
        items = [{"item_id": "1", "rank": 1, "title": f"Film for {request.get('user_id', 'nobody')}"}]
        known = {"fallback": None, "fallback_reason": None, "timings_ms": {"total": 1.0}}
        self.answer({"version": live, "family": "fake", "items": items, **known})

    def answer(self, body: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


if sys.argv[1:2] == ["import-events"]:
    with Path("calls").open("a") as calls:
        calls.write("app import-events\n")
else:
    # Like the embedded server for histories: in a session of its own, so a kill of the service leaves it behind.
    histories = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    with Path("pids").open("a") as pids:
        pids.write(f"{os.getpid()} {histories.pid}\n")
    HTTPServer(("127.0.0.1", int(os.environ["NAISEKI_PORT"])), Handler).serve_forever()
