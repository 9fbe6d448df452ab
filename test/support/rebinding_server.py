#!/usr/bin/env python3
"""A name server whose answers change, and token endpoints at the addresses that it gives. Standard library only.

usage: rebinding_server.py --port-file FILE
       rebinding_server.py --check

To be run in a network namespace of its own, which it furnishes: loopback is up and has the addresses below. Listens on
127.0.0.1:53 (UDP) for questions, on port 8080 of each address for token requests, and on a free port of 127.0.0.1, whose number
it writes to FILE, for the test. Runs until its standard input is closed. --check: only tries whether all that can be done here.

POST /test/names    JSON {NAME: [ADDRESS...]}: from now on these are its addresses, to be kept for 0 seconds
POST /test/hang_up  closes the connections that are kept
GET  /test/state    JSON {questions: {NAME: n}, connections: {ADDRESS: n}, requests: {ADDRESS: n}}
POST /token         (at each address) tokens that tell the address
"""

import argparse
import fcntl
import http.server
import ipaddress
import json
import os
import socket
import socketserver
import struct
import sys
import threading
import time

ADDRESSES = ("127.0.0.1", "10.77.0.1", "169.254.169.254", "64:ff9b::a9fe:a9fe")
PORT = 8080
SIOCSIFFLAGS, SIOCSIFADDR = 0x8914, 0x8916
UP = 0x1
TENTATIVE = 0x40  # IFA_F_TENTATIVE
A, AAAA = 1, 28


def furnish():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", UP))
        for number, address in enumerate(a for a in ADDRESSES[1:] if ":" not in a):
            family = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16s16s", b"lo:%d" % number, family))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        for address in (a for a in ADDRESSES if ":" in a):
            packed = socket.inet_pton(socket.AF_INET6, address)
            fcntl.ioctl(control, SIOCSIFADDR, struct.pack("=16sIi", packed, 128, socket.if_nametoindex("lo")))
    deadline = time.monotonic() + 60
    while has_tentative_address():
        if time.monotonic() > deadline:
            sys.exit("an address of this namespace does not become usable")
        time.sleep(0.01)


# The kernel takes an IPv6 address into use a moment after it was given, on a loopback interface as well.
def has_tentative_address():
    with open("/proc/net/if_inet6") as file:
        return any(int(line.split()[4], 16) & TENTATIVE for line in file)


class State:
    def __init__(self):
        self.lock = threading.Lock()
        self.names = {}
        self.counts = {"questions": {}, "connections": {a: 0 for a in ADDRESSES}, "requests": {a: 0 for a in ADDRESSES}}
        self.kept = set()

    def count(self, what, which):
        with self.lock:
            self.counts[what][which] = self.counts[what].get(which, 0) + 1


class NameHandler(socketserver.BaseRequestHandler):
    def handle(self):
        question, sock = self.request
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode().lower())
            at += 1 + question[at]
        kind, _ = struct.unpack("!HH", question[at + 1 : at + 5])
        name = ".".join(labels)
        self.server.state.count("questions", name)
        addresses = self.server.state.names.get(name, [])
        packed = [a.packed for a in map(ipaddress.ip_address, addresses) if kind == {4: A, 6: AAAA}[a.version]]
        code = 0 if addresses else 3  # no such name
        answer = struct.pack("!2sHHHHH", question[:2], 0x8580 | code, 1, len(packed), 0, 0) + question[12 : at + 5]
        for address in packed:
            answer += struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(address)) + address
        sock.sendto(answer, self.client_address)


class TokenHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format, *args):
        pass

    def setup(self):
        super().setup()
        self.server.state.kept.add(self.connection)

    def finish(self):
        self.server.state.kept.discard(self.connection)
        super().finish()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.state.count("requests", self.server.address)
        self.answer({"access_token": f"fake-access-from-{self.server.address}", "expires_in": 3600})

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class ControlHandler(TokenHandler):
    def setup(self):
        http.server.BaseHTTPRequestHandler.setup(self)

    def do_GET(self):
        self.answer(self.server.state.counts)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/test/names":
            self.server.state.names.update(json.loads(body))
        else:
            for connection in list(self.server.state.kept):
                connection.shutdown(socket.SHUT_RDWR)
        self.answer({})


class TokenServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address, port, state, handler=TokenHandler):
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.address, self.state = address, state
        super().__init__((address, port), handler)

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)  # without looking the own name up

    def process_request(self, request, client_address):
        self.state.count("connections", self.address)
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no error
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    furnish()
    state = State()
    names = socketserver.UDPServer(("127.0.0.1", 53), NameHandler)
    names.state = state
    servers = [names] + [TokenServer(address, PORT, state) for address in ADDRESSES]
    control = TokenServer("127.0.0.1", 0, state, ControlHandler)
    control.address = "control"
    if arguments.check:
        return
    for server in servers + [control]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with open(arguments.port_file + ".new", "w") as file:
        file.write(f"{control.server_address[1]}\n")
    os.rename(arguments.port_file + ".new", arguments.port_file)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
