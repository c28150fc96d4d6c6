#!/usr/bin/env python3
"""A Lovage worker in plain Python: it adds two numbers.

Start `lovage dev` and this file (`python3 examples/worker.py`), then register it, submit a task and read its result:

    curl -X PUT localhost:8275/v1/workers/adder -H 'content-type: application/json' \\
         -d '{"url": "http://127.0.0.1:8000/", "tasks": ["math.*"]}'
    curl localhost:8275/v1/tasks -H 'content-type: application/json' \\
         -d '{"id": "sum-1", "task": "math.add", "args": [20, 22]}'
    curl 'localhost:8275/v1/tasks/sum-1?wait=10s'
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Worker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        a, b = call["args"]
        result = json.dumps(a + b).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(result)))
        self.end_headers()
        self.wfile.write(result)


ThreadingHTTPServer(("127.0.0.1", 8000), Worker).serve_forever()
