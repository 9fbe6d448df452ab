#!/usr/bin/env python3
"""A token endpoint that tries to harm whoever asks it. Standard library only.

usage: hostile_server.py --port-file FILE [--tls NAME CERT KEY]...

Listens on a free port of 127.0.0.1, writes its number to FILE and runs until its standard input is closed; and on one port more
for each NAME, with that certificate, and one more, to which the redirects lead.

POST /HOW/token     answers as the function of that name below does; once it is mended, with good tokens
GET  /test/state    JSON {ports, sent: {HOW: bytes of bodies}, arrived: {HOW: requests}, elsewhere: requests on the port of the
                    redirects, tls: {NAME: requests}, wrong: [HOW whose request did not present its refresh token]}
POST /test/mend     from now on all answers are good
"""

import argparse
import gzip
import json
import os
import threading
import time
import urllib.parse

from loopback import LoopbackHandler, LoopbackServer, listen, port_of, serve, serve_until_stdin_closes, speak_tls

MEGABYTE = 1000 * 1000
BODY = 10 * 1024 * MEGABYTE
PIECE = b"x" * 65536
BOMB = gzip.compress(b"\0" * 300 * MEGABYTE, 6)  # 300 kB


class Handler(LoopbackHandler):
    def dispatch(self):
        state, kind = self.server.state, self.server.kind
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()))
        if kind == "elsewhere":
            state["elsewhere"] += 1
            return self.whole(json.dumps({"access_token": "fake-access-from-elsewhere"}).encode())
        if kind != "main":
            state["tls"][kind] += 1
            return self.whole(json.dumps({"access_token": "fake-access-by-tls"}).encode())
        if self.path == "/test/state":
            return self.whole(json.dumps(state).encode())
        if self.path == "/test/mend":
            state["mended"] = True
            return self.whole(b"{}")
        how = self.path.split("/")[1]
        with self.server.lock:
            state["arrived"][how] = state["arrived"].get(how, 0) + 1
        if form.get("refresh_token") != f"fake-refresh-of-{how}":
            state["wrong"].append(how)
        self.how = how
        self.close_connection = True
        if state["mended"] and how.startswith("xml_"):
            return self.whole(f"<r><access_token>fake-access-of-{how}</access_token></r>".encode())
        if state["mended"]:
            return self.whole(json.dumps({"access_token": f"fake-access-of-{how}", "expires_in": 3600}).encode())
        getattr(self, how)()

    # ---- parts

    def head(self, length=None, **headers):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def whole(self, body, **headers):
        self.head(len(body), **headers)
        self.wfile.write(body)

    def stream(self, piece, total, frame=lambda data: data):
        sent = 0
        try:
            while sent < total:
                self.wfile.write(frame(piece))
                sent += len(piece)
        finally:
            self.server.state["sent"][self.how] = sent

    def drip(self, data):
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(1)

    # ---- bodies without end

    def ten_gigabytes(self):
        self.head(BODY)
        self.stream(PIECE, BODY)

    def ten_gigabytes_chunked(self):
        self.head(Transfer_Encoding="chunked")
        self.stream(PIECE, BODY, lambda data: b"%x\r\n%s\r\n" % (len(data), data))

    def ten_gigabytes_until_close(self):
        self.head()
        self.stream(b'{"access_token":"' + PIECE, BODY)

    def ten_gigabytes_with_500(self):
        self.wfile.write(b"HTTP/1.1 500 Oops\r\nContent-Length: %d\r\n\r\n" % BODY)
        self.stream(PIECE, BODY)

    def tiny_chunks(self):
        self.head(Transfer_Encoding="chunked")
        self.stream(b"1\r\nx\r\n" * 10000, BODY)

    # ---- slowness

    def one_byte_a_second(self):
        self.head(1000)
        self.drip(b'{"access_token":"' + b"x" * 900)

    def one_header_byte_a_second(self):
        self.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 900)

    def silence(self):
        time.sleep(600)

    # ---- headers

    def many_headers(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for start in range(0, 100000, 1000):
            self.wfile.write(b"".join(b"X-Header-%d: %d\r\n" % (i, i) for i in range(start, start + 1000)))
        self.wfile.write(b"Content-Length: 2\r\n\r\n{}")

    def long_header(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        self.stream(PIECE, 100 * MEGABYTE)

    def interim_answers(self):
        self.stream(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 1000, 10000 * MEGABYTE)

    def no_http(self):
        self.wfile.write(b"SSH-2.0-nonsense\r\n" * 5000)

    # ---- bodies that are not what they seem

    def gzip_bomb(self):
        self.whole(BOMB, Content_Encoding="gzip")

    def gzip_good(self):
        self.whole(gzip.compress(b'{"access_token":"fake-zipped"}'), Content_Encoding="gzip")

    def invalid_utf8(self):
        self.whole(b'{"access_token":"fake-\xff\xfe\xc0\xaf","expires_in":3600}')

    def nul_bytes(self):
        self.whole(b'{"access_token":"fake-\0-token"}')

    def nul_escape(self):
        self.whole(b'{"access_token":"fake-\\u0000-token"}')

    def only_nul_bytes(self):
        self.whole(b"\0" * MEGABYTE)

    def deep_lists(self):
        self.whole(b'{"x":' + b"[" * 100000 + b"]" * 100000 + b"}")

    def deep_objects(self):
        self.whole(b'{"x":' * 100000 + b"1" + b"}" * 100000)

    def number_of_1_mb(self):
        self.whole(b'{"access_token":7,"expires_in":' + b"9" * MEGABYTE + b"}")

    def lifetime_of_1_mb(self):
        self.whole(b'{"access_token":"fake-lifetime","expires_in":' + b"9" * (MEGABYTE - 100) + b"}")

    def many_members(self):
        self.whole(b"{" + b",".join(b'"%d":[]' % i for i in range(80000)) + b"}")

    def token_of_1_mb(self):
        self.whole(b'{"access_token":"' + b"x" * MEGABYTE + b'","expires_in":3600}')

    def cut_short(self):
        self.head(1000)
        self.wfile.write(b'{"access_token":"fake-')

    # ---- XML

    def xml_laughs(self):
        entities = b"".join(b'<!ENTITY e%d "%s">' % (i, b"&e%d;" % (i - 1) * 10) for i in range(1, 20))
        self.whole(b'<!DOCTYPE r [<!ENTITY e0 "ha">' + entities + b"]><r><access_token>&e19;</access_token></r>")

    def xml_external(self):
        target = f"http://127.0.0.1:{self.server.state['ports']['elsewhere']}/entity"
        self.whole(f'<!DOCTYPE r SYSTEM "{target}" [<!ENTITY e SYSTEM "{target}">]><r><access_token>&e;</access_token></r>'.encode())

    def xml_deep(self):
        self.whole(b"<r>" * 100000 + b"1" + b"</r>" * 100000)

    def xml_open(self):
        self.whole(b"<r>" * 300000)

    def xml_many_elements(self):
        self.whole(b"<r>" + b"<a/>" * 100000 + b"</r>")

    def xml_many_attributes(self):
        self.whole(b"<r><a " + b"b='' " * 200000 + b"/></r>")

    def xml_nul(self):
        self.whole(b"<r><access_token>fake-\0-token</access_token></r>")

    def xml_nul_reference(self):
        self.whole(b"<r><access_token>fake-&#x100000000;-token</access_token></r>")

    def xml_invalid_utf8(self):
        self.whole(b"<r><access_token>fake-\xff\xfe\xc0\xaf</access_token></r>")

    # ---- redirects

    def redirect_301(self):
        self.redirect(301)

    def redirect_302(self):
        self.redirect(302)

    def redirect_303(self):
        self.redirect(303)

    def redirect_307(self):
        self.redirect(307)

    def redirect_308(self):
        self.redirect(308)

    def redirect(self, status):
        target = f"http://localhost:{self.server.state['ports']['elsewhere']}/token"
        self.wfile.write(f"HTTP/1.1 {status} Elsewhere\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())


class Server(LoopbackServer):
    lock = threading.Lock()

    def __init__(self, address):
        super().__init__(address, Handler)


def open_port(kind, state, tls=()):
    server = listen(Server)
    server.kind, server.state = kind, state
    state["ports"][kind] = port_of(server)
    if tls:
        speak_tls(server, *tls)
    return server


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--tls", nargs=3, action="append", default=[], metavar=("NAME", "CERT", "KEY"))
    arguments = parser.parse_args()
    state = {"ports": {}, "sent": {}, "arrived": {}, "elsewhere": 0, "tls": {name: 0 for name, _, _ in arguments.tls},
             "wrong": [], "mended": False}
    serve(open_port("elsewhere", state))
    for name, *tls in arguments.tls:
        serve(open_port(name, state, tls))
    serve_until_stdin_closes(open_port("main", state), arguments.port_file)
    os._exit(0)


if __name__ == "__main__":
    main()
