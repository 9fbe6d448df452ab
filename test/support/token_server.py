#!/usr/bin/env python3
"""A scriptable OAuth 2.0 token endpoint for tests, standard library only.

usage: token_server.py --port-file FILE [--tls CERT KEY]

Listens on a free port of 127.0.0.1, writes its number to FILE and runs until
its standard input is closed, so it never outlives the test that started it.
A realm is an independent provider; it comes into being when first named.

POST /REALM/token       the token endpoint (grant_type=refresh_token)
POST /REALM/revoke      RFC 7009
POST /REALM/control     JSON, changes the realm's settings: see DEFAULT_SETTINGS in token_realm.py
POST /REALM/grants      JSON {n, prefix, subjects, lifetime}: new grants, as a list of token responses with their subject
POST /REALM/release     lets the requests held by "hold" go on and ends the hold; {"keep": true} goes on holding new ones
GET  /REALM/stats       counters
GET  /REALM/wait?COUNTER=N&timeout=SECONDS, e.g. requests, refreshed, in_flight, held
                        answers with the counters when they are at least N (0: exactly 0), or with status 408
GET  /REALM/introspect?token=T  whether an access token is valid
"""

import argparse
import base64
import json
import os
import resource
import socket
import struct
import threading
import time
import urllib.parse

from loopback import LoopbackHandler, LoopbackServer, listen, serve_until_stdin_closes, speak_tls
from token_realm import BadRequest, Realm, error_answer


def client_of(headers, form):
    """(method, client_id, client_secret) as RFC 6749 section 2.3.1 transmits them."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            client_id, _, secret = base64.b64decode(value).decode().partition(":")
        except ValueError:
            return "basic", None, None
        return "basic", urllib.parse.unquote_plus(client_id), urllib.parse.unquote_plus(secret)
    if "client_secret" in form:
        return "post", form.get("client_id"), form["client_secret"]
    return "none", form.get("client_id"), None


def fault_answer(fault, form, client):
    """The (status, headers, body) of a fault that is an answer."""
    kind, headers = fault["kind"], dict(fault["headers"])
    body = fault["body"] if fault["body"] is None or isinstance(fault["body"], str) else json.dumps(fault["body"])
    if kind == "echo":
        body = json.dumps({"error": fault.get("error", "invalid_request"),
                           "error_description": f"bad request: {form.get('refresh_token')} from {client[1]}:{client[2]}"})
    status, default_headers, default_body = {
        "status": (500, {}, ""),
        "html": (502, {"Content-Type": "text/html"}, "<html><head><title>Bad gateway</title></head></html>"),
        "garbage": (200, {}, '{"access_token": "at_'),
        "invalid_grant": error_answer(400, "invalid_grant"),
        "invalid_client": error_answer(401, "invalid_client", headers={"WWW-Authenticate": "Basic"}),
        "rate_limit": error_answer(429, "rate_limited", headers={"Retry-After": "1"}),
        "echo": (400, {}, ""),
    }[kind]
    return fault["status"] or status, {**default_headers, **headers}, default_body if body is None else body


def reworded(fault, answer):
    """The answer to a refresh as the fault wants it worded; a refusal stays as it is."""
    status, headers, body = answer
    if status != 200:
        return answer
    text = fault["body"] or ""
    for name, value in json.loads(body).items():
        text = text.replace(f"<{name}>", str(value))
    return fault["status"] or status, {**headers, **fault["headers"]}, text


class Handler(LoopbackHandler):
    wbufsize = 65536

    def dispatch(self):
        url = urllib.parse.urlsplit(self.path)
        name, _, action = url.path.strip("/").partition("/")
        self.query = dict(urllib.parse.parse_qsl(url.query))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        handle = getattr(self, f"{self.command.lower()}_{action}", None)
        if not name or handle is None:
            return self.answer(404, {}, json.dumps({"error": f"no such resource: {self.command} {url.path}"}))
        try:
            handle(self.server.realm(name))
        except (BadRequest, ValueError, TypeError, AttributeError, KeyError) as error:
            self.answer(400, {}, json.dumps({"error": str(error)}))

    def answer(self, status, headers, body):
        payload = body.encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Cache-Control": "no-store", **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def answer_json(self, value, status=200):
        self.answer(status, {}, json.dumps(value))

    def options(self):
        return json.loads(self.body or "{}")

    def post_control(self, realm):
        self.answer_json(realm.control(self.options()))

    def post_grants(self, realm):
        self.answer_json(realm.create_grants(self.options()))

    def post_release(self, realm):
        self.answer_json(realm.release(self.options()))

    def get_stats(self, realm):
        self.answer_json(realm.stats())

    def get_wait(self, realm):
        timeout = float(self.query.pop("timeout", 30))
        reached = realm.wait({name: int(goal) for name, goal in self.query.items()}, timeout)
        self.answer_json(realm.stats(), 200 if reached else 408)

    def get_introspect(self, realm):
        self.answer_json(realm.introspect(self.query.get("token")))

    def form(self):
        return dict(urllib.parse.parse_qsl(self.body, keep_blank_values=True))

    def post_revoke(self, realm):
        realm.revoke(self.form().get("token"))
        self.answer(200, {}, "")

    def post_token(self, realm):
        form = self.form()
        client = client_of(self.headers, form)
        fault = realm.arrive(form.get("refresh_token"), form, self.headers.keys(), client[0])
        try:
            realm.hold("before")
            time.sleep(realm.settings["hang"])
            answer = None
            if fault["kind"] == "none" or fault["when"] == "after":
                answer = realm.refresh(form, client)
            realm.hold("after")
            time.sleep(realm.settings["latency"])
            if fault["kind"] == "hang_after":
                return self.answer_half(realm, answer)
        finally:
            realm.leave()
        if fault["kind"] == "none":
            self.answer(*answer)
        elif fault["kind"] in ("reset", "close", "raw"):
            self.break_connection(fault)
        elif fault["kind"] == "reword":
            self.answer(*reworded(fault, answer))
        else:
            self.answer(*fault_answer(fault, form, client))

    def answer_half(self, realm, answer):
        body = (answer or (0, {}, '{"access_token":"at_"}'))[2].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        realm.stall()
        self.close_connection = True

    def break_connection(self, fault):
        self.close_connection = True
        if fault["kind"] == "raw":
            self.wfile.write((fault["body"] or "").encode())
        if fault["kind"] == "reset":  # closing with a linger time of 0 sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())


class Server(LoopbackServer):
    request_queue_size = 1024
    passing_errors = (OSError, ValueError)

    def __init__(self, address):
        super().__init__(address, Handler)
        self.realms = {}
        self.realms_lock = threading.Lock()

    def realm(self, name):
        with self.realms_lock:
            return self.realms.setdefault(name, Realm())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    arguments = parser.parse_args()

    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    threading.stack_size(256 * 1024)
    server = listen(Server)
    if arguments.tls:
        speak_tls(server, *arguments.tls)
    serve_until_stdin_closes(server, arguments.port_file)
    os._exit(0)  # without waiting for requests that hang on purpose


if __name__ == "__main__":
    main()
