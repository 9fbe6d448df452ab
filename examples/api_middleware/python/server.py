"""usage: PORT=8080 python3 server.py        the database: PGHOST, PGUSER, PGDATABASE, ... as for psql

A small API behind API tokens. VALIDATE_FUNCTION: another function with the same columns. PREPARE=0: behind pgbouncer.
"""

import logging
import os
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from psycopg_pool import ConnectionPool

from api_token import ApiToken, respond


def hex_or_none(value):
    return None if value is None else value.hex()


def list_orders(environ, start_response):
    content = {
        "user": hex_or_none(environ["api_token.user_hk"]),
        "tenant": hex_or_none(environ["api_token.tenant_hk"]),
        "scope": environ["api_token.scope"],
    }
    return respond(start_response, "200 OK", [("Cache-Control", "max-age=60")], content)


def add_order(environ, start_response):
    return respond(start_response, "201 Created", [], {"user": hex_or_none(environ["api_token.user_hk"])})


class ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    logging.basicConfig(level=logging.INFO)
    # One statement is one transaction. None: statements are never prepared on the server.
    settings = {"autocommit": True, "prepare_threshold": None if os.environ.get("PREPARE") == "0" else 0}
    pool = ConnectionPool("", min_size=2, max_size=10, timeout=2, kwargs=settings)
    validate = {"validate": os.environ["VALIDATE_FUNCTION"]} if os.environ.get("VALIDATE_FUNCTION") else {}
    routes = {
        ("GET", "/orders"): ApiToken(list_orders, pool, **validate),
        ("POST", "/orders"): ApiToken(add_order, pool, scope="api:write", **validate),
    }

    def app(environ, start_response):
        route = routes.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if route is None:
            return respond(start_response, "404 Not Found", [], {"error": "not_found"})
        return route(environ, start_response)

    with make_server("127.0.0.1", int(os.environ.get("PORT", 8080)), app, server_class=ThreadingServer) as server:
        print(f"listening on port {server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
