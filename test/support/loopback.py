"""How the servers for tests listen: each on a free port of 127.0.0.1, as long as the test that started it lives."""

import http.server
import os
import random
import ssl
import sys
import threading


class LoopbackServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    passing_errors = OSError  # a client that went away is no error

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], self.passing_errors):
            super().handle_error(request, client_address)


class LoopbackHandler(http.server.BaseHTTPRequestHandler):
    """Keeps connections alive, and its peace; all requests go to dispatch()."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self.dispatch()

    def do_POST(self):
        self.dispatch()


def listen(make_server):
    """make_server(address), with a port below the ephemeral range, where no outgoing connection takes it."""
    while True:
        try:
            return make_server(("127.0.0.1", random.randrange(20000, 32000)))
        except OSError:
            continue


def port_of(server):
    return server.server_address[1]


def speak_tls(server, certificate, key, client_ca=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    # The handshake belongs to the connection's own thread.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)


def serve(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()


def serve_until_stdin_closes(server, port_file):
    """Writes the port to the file once it is served; returns when the test has gone."""
    serve(server)
    with open(port_file + ".new", "w") as file:
        file.write(f"{port_of(server)}\n")
    os.rename(port_file + ".new", port_file)
    sys.stdin.buffer.read()
