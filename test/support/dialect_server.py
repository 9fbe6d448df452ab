#!/usr/bin/env python3
"""Token endpoints of many providers for tests, one for each path prefix, as the rows of test/conformance/cases.json
say. Standard library, and the openssl command for signatures (dialect_check.py).

usage: dialect_server.py --port-file FILE [--keys DIRECTORY] [--tls CERT KEY [--client-ca FILE]]

Listens on a free port of 127.0.0.1, writes its number to FILE and runs until its standard input is closed; with --tls on
another one as well, for https.
DIRECTORY holds public keys in PEM, NAME.pub each.

POST /test/cases     JSON {CASE: {client_id, client_secret, values, exchanges: [{request, answer}]}}: from now on requests
                     under /CASE/ are compared with these, the first with the first, and answered. Texts may hold
                     <name> for a value, <now+SECONDS>, <now_ms+SECONDS>, <iso+SECONDS>, <http+SECONDS> and
                     <jwt+SECONDS>, a JWT that expires then
GET  /test/tls_port  JSON [port]
GET  /test/records   JSON {CASE: [[difference, ...] of each request]}

A request that is not as expected, or one too many, is answered 400 with a JSON that says what differs.
"""

import argparse
import json
import os
import ssl
import threading
import urllib.parse

from dialect_check import differences, filled, filled_body
from loopback import LoopbackHandler, LoopbackServer, listen, port_of, serve, serve_until_stdin_closes, speak_tls

HOP_HEADERS = {"content-length", "transfer-encoding"}


class Case:
    def __init__(self, script, keys):
        self.script, self.keys = script, keys
        self.exchanges = list(script["exchanges"])
        self.records = []

    def answer(self, request):
        """(status, headers, body) for a request; it is recorded."""
        number = len(self.records)
        if number >= len(self.exchanges):
            wrong = [f"request {number + 1}: none is expected any more"]
        else:
            wrong = differences(self.exchanges[number]["request"], request, self.script, self.keys)
        self.records.append(wrong)
        if wrong:
            return 400, {"Content-Type": "application/json"}, json.dumps({"error": "unexpected", "differences": wrong}).encode()
        answer = self.exchanges[number].get("answer") or {}
        headers = {"Content-Type": "application/json", **answer.get("headers", {})}
        values = self.script["values"]
        headers = {name: filled(text, values) for name, text in headers.items() if text is not None}
        return answer.get("status", 200), headers, filled_body(answer.get("body", ""), values)


class Handler(LoopbackHandler):
    wbufsize = 65536

    def dispatch(self):
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name, _, rest = url.path.lstrip("/").partition("/")
        server = self.server
        if url.path == "/test/cases":
            with server.lock:
                server.cases.update({name: Case(script, server.keys) for name, script in json.loads(body).items()})
            return self.answer_json(200, {})
        if url.path == "/test/records":
            with server.lock:
                return self.answer_json(200, {name: case.records for name, case in server.cases.items()})
        if url.path == "/test/tls_port":
            return self.answer_json(200, [server.tls_port])
        case = server.cases.get(name)
        if case is None:
            return self.answer_json(404, {"error": f"no such case: {name}"})
        request = {"method": self.command, "path": "/" + rest, "query": url.query, "headers": self.headers,
                   "body": body, "certificate": self.certificate()}
        with server.lock:
            answer = case.answer(request)
        self.answer(*answer)

    def certificate(self):
        """The common name in the client's certificate."""
        if not isinstance(self.connection, ssl.SSLSocket):
            return None
        subject = (self.connection.getpeercert() or {}).get("subject", ())
        return dict(pair for names in subject for pair in names).get("commonName")

    def answer_json(self, status, value):
        self.answer(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def answer(self, status, headers, payload):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in HOP_HEADERS:
                self.send_header(name, value)
        # RFC 9110 section 6.4.1
        if status != 204:
            self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if status != 204:
            self.wfile.write(payload)


class Server(LoopbackServer):
    def __init__(self, address):
        super().__init__(address, Handler)
        self.cases, self.keys, self.lock, self.tls_port = {}, "", threading.Lock(), 0


def listen_tls(server, arguments):
    """The same cases by https."""
    secure = listen(Server)
    secure.cases, secure.keys, secure.lock = server.cases, server.keys, server.lock
    server.tls_port = port_of(secure)
    speak_tls(secure, *arguments.tls, arguments.client_ca)
    serve(secure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--keys", default="")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--client-ca")
    arguments = parser.parse_args()
    server = listen(Server)
    server.keys = arguments.keys
    if arguments.tls:
        listen_tls(server, arguments)
    serve_until_stdin_closes(server, arguments.port_file)
    os._exit(0)


if __name__ == "__main__":
    main()
