#!/usr/bin/env python3
"""Receives callbacks, checks that Lovage signed them (Standard Webhooks), and prints what happened.

SECRET is the `signing` that `POST /v1/signing-keys/rotate` answered; without it nothing is checked. A worker checks its calls
in the same way, with the `signing` that its registration answered.
"""

import base64, hashlib, hmac, json, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("SECRET", "")


def is_genuine(headers, body):
    """Whether one of the signatures is ours and the request is not older than five minutes."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    stamp = headers["Webhook-Timestamp"]
    text = f"{headers['Webhook-Id']}.{stamp}.".encode() + body
    ours = "v1," + base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()
    given = headers.get("Webhook-Signature", "").split()
    return abs(time.time() - int(stamp)) < 300 and any(hmac.compare_digest(ours, one) for one in given)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        genuine = not SECRET or is_genuine(self.headers, body)
        if genuine:
            event = json.loads(body)
            print(event["type"], event["id"], json.dumps(event["error"] or event["result"]), flush=True)
        # 204: taken. 401: not from Lovage; it would be tried again, in case only our secret is out of date.
        self.send_response(204 if genuine else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 8001))), Receiver).serve_forever()
