#!/usr/bin/env python3
"""A Lovage worker in plain Python: an HTTP server that is called with a task and answers with its result."""

import json, os
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

ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 8000))), Worker).serve_forever()
