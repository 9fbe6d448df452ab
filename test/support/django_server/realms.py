"""The first part of a path says under which settings of the toolkit the request is answered, so that one server is many: with
rotating refresh tokens and without, for instance. Requests are answered one at a time, which SQLite prefers anyway."""

import json
import socket
import threading
from urllib.parse import parse_qs
from wsgiref.util import shift_path_info

import oauth2_provider
from django.conf import settings
from django.test.utils import override_settings
from oauth2_provider.settings import DEFAULTS

import clients


class Realms:
    """The WSGI application. realms: name -> settings of the toolkit. In environ "test.connection" is the socket.

    GET  /test/about                  version, the settings that it knows, the port of https
    GET  /test/tokens?user=NAME       see clients.refresh_tokens
    GET  /test/stats                  requests by path; TLS handshakes that have failed
    POST /test/lose?answers=N&half=1  the next N answers of token endpoints are lost when they are made; half: the second half of each
    """

    def __init__(self, application, realms):
        self.application = application
        self.realms = realms
        self.lock = threading.Lock()
        self.stats = {"requests": {}, "tls_errors": 0}
        self.tls_port = None
        self.to_lose = 0
        self.half = False

    def __call__(self, environ, start_response):
        with self.lock:
            if environ["PATH_INFO"].startswith("/test/"):
                return self.answer_test(environ, start_response)
            path = environ["PATH_INFO"]
            self.stats["requests"][path] = self.stats["requests"].get(path, 0) + 1
            toolkit = {**settings.OAUTH2_PROVIDER, **self.realms[shift_path_info(environ)]}
            with override_settings(OAUTH2_PROVIDER=toolkit):
                answer = self.application(environ, start_response)
                body = b"".join(answer)
                answer.close()
            if path.endswith("/token/") and self.to_lose > 0:
                self.to_lose -= 1
                return lost(environ["test.connection"], body[: len(body) // 2] if self.half else b"")
            return [body]

    def answer_test(self, environ, start_response):
        query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
        value = {}
        if environ["PATH_INFO"] == "/test/about":
            value = {"version": oauth2_provider.__version__, "settings": sorted(DEFAULTS), "tls_port": self.tls_port}
        elif environ["PATH_INFO"] == "/test/tokens":
            value = clients.refresh_tokens(query["user"])
        elif environ["PATH_INFO"] == "/test/stats":
            value = self.stats
        elif environ["PATH_INFO"] == "/test/lose":
            self.to_lose, self.half = int(query["answers"]), "half" in query
        body = json.dumps(value).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def lost(connection, sent):
    """What has been done stays done, but the connection breaks."""
    if sent:
        yield sent
    connection.shutdown(socket.SHUT_RDWR)
    raise BrokenPipeError
