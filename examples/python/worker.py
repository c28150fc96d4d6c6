#!/usr/bin/env python3
"""A Lovage worker in plain Python that uses most of the worker protocol: one handler for each kind of answer.

It registers itself at LOVAGE_URL as "python" for the tasks "ex.*", listens on PORT, and takes only calls that Lovage signed.
"""

import base64, hashlib, hmac, json, os, secrets, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

LOVAGE = os.environ.get("LOVAGE_URL", "http://127.0.0.1:8275")
PORT = int(os.environ.get("PORT", 8000))
# A secret of our own. Several processes behind one worker would share it: then set SIGNING.
SIGNING = os.environ.get("SIGNING") or "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def send(method, url, value):
    """A JSON request; the answer as JSON."""
    headers = {"Content-Type": "application/json"}
    if url.startswith(f"{LOVAGE}/v1/workers/") and "LOVAGE_KEY" in os.environ:
        headers["Authorization"] = f"Bearer {os.environ['LOVAGE_KEY']}"
    with urlopen(Request(url, json.dumps(value).encode(), headers, method=method), timeout=10) as answer:
        return json.load(answer)


def is_genuine(headers, body):
    """Whether Lovage sent this within the last five minutes (Standard Webhooks)."""
    stamp = headers.get("Webhook-Timestamp", "0")
    text = f"{headers.get('Webhook-Id')}.{stamp}.".encode() + body
    ours = "v1," + base64.b64encode(hmac.digest(base64.b64decode(SIGNING[6:]), text, hashlib.sha256)).decode()
    given = headers.get("Webhook-Signature", "").split()
    return abs(time.time() - int(stamp)) < 300 and any(hmac.compare_digest(ours, one) for one in given)


def add(worker, call):
    """The answer is the result."""
    worker.answer(200, sum(call["args"]))


def later(worker, call):
    """202: the connection is done with, the result is reported to the URL of the attempt."""
    url = worker.headers["Lovage-Attempt-Url"]
    worker.answer(202, None, {"Lovage-Lease": "1m"})
    # A report that gets no answer may be sent again, and a heartbeat now and then renews the lease.
    threading.Thread(target=send, args=("POST", f"{url}/complete", sum(call["args"]))).start()


def steps(worker, call):
    """A stream of lines: progress, and at the end the result."""
    worker.send_response(200)
    worker.send_header("Content-Type", "application/x-ndjson")
    worker.send_header("Connection", "close")
    worker.end_headers()
    for step in range(1, call["args"][0] + 1):
        worker.wfile.write(json.dumps({"progress": {"step": step}}).encode() + b"\n")
        worker.wfile.flush()
    worker.wfile.write(json.dumps({"result": call["args"][0]}).encode() + b"\n")


def refuse(worker, call):
    """422: it would fail again, so it is not tried again."""
    worker.answer(422, {"type": "Refused", "message": f"cannot work with {call['args']}"})


def total(worker, call):
    """Starts a task for each pair and is called again when all of them are final."""
    if worker.headers.get("Lovage-Resume") == "1":
        return worker.answer(200, sum(child["result"] for child in call["children"]))
    tasks = [{"task": "ex.add", "args": pair} for pair in call["args"]]
    document = {"outcome": "spawn", "tasks": tasks, "then": "wait"}
    worker.answer(200, document, {"Content-Type": "application/vnd.lovage.outcome+json"})


TASKS = {"ex.add": add, "ex.later": later, "ex.steps": steps, "ex.refuse": refuse, "ex.total": total}


class Worker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not is_genuine(self.headers, body):
            return self.answer(401, None)
        call = json.loads(body)
        TASKS[call["task"]](self, call)

    def answer(self, status, value, headers={}):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", PORT), Worker)
worker = {"url": f"http://127.0.0.1:{PORT}/", "tasks": ["ex.*"], "signing": SIGNING}
send("PUT", f"{LOVAGE}/v1/workers/python", worker)
print(f"serving {', '.join(TASKS)} on port {PORT}", flush=True)
server.serve_forever()
