"""WSGI middleware: lets in who presents a good API token, says in the environ whose it is, and hands out the successor
of a token that expires soon.

    app = ApiToken(app, pool)
    app = ApiToken(app, pool, scope="api:write")

The application finds api_token.user_hk, api_token.tenant_hk (bytes or None) and api_token.scope (a list) in its environ.
"""

import json
import logging
import re

import psycopg

# The form of RFC 6750; what else may be wrong with a token the database says.
BEARER = re.compile(r"Bearer +([\w.~+/-]+=*)", re.ASCII | re.IGNORECASE)

logger = logging.getLogger(__name__)


class ApiToken:
    """pool: a psycopg_pool.ConnectionPool. validate: the function that is asked, a name of the developer's own."""

    def __init__(self, app, pool, scope="api:read", validate="token_refresh.validate_and_refresh_api_token"):
        self.app = app
        self.pool = pool
        self.scope = scope
        # When it expires as text: a datetime ends with the year 9999.
        self.query = (
            "SELECT is_valid, user_hk, tenant_hk, scope, new_token, was_refreshed, refresh_reason, message,"
            """ CASE WHEN was_refreshed THEN to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END"""
            f" FROM {validate}(%s, %s)"
        )

    def __call__(self, environ, start_response):
        bearer = BEARER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        if bearer is None:
            return refuse(start_response, "Bearer", "a token is required: Authorization: Bearer TOKEN")
        try:
            with self.pool.connection() as connection:
                answer = connection.execute(self.query, (bearer[1], self.scope)).fetchone()
        except psycopg.Error as error:
            # Nothing of the error but its code: it may quote what it was about.
            logger.error("the database cannot be asked (%s)", error.sqlstate or type(error).__name__)
            headers = [("Retry-After", "1")]
            return respond(start_response, "503 Service Unavailable", headers, {"error": "temporarily_unavailable"})
        is_valid, user_hk, tenant_hk, scope, new_token, was_refreshed, reason, message, expires_at = answer
        if not is_valid:
            return refuse(start_response, 'Bearer error="invalid_token"', message)

        environ["api_token.user_hk"] = user_hk
        environ["api_token.tenant_hk"] = tenant_hk
        environ["api_token.scope"] = scope
        if not was_refreshed:
            return self.app(environ, start_response)

        logger.info("refreshed (%s)", reason)
        added = [
            ("X-New-Token", new_token),
            ("X-Token-Expires", expires_at),
            ("X-Refresh-Reason", reason),
            ("Cache-Control", "no-store"),
        ]

        def start_with_token(status, headers, exc_info=None):
            kept = [header for header in headers if header[0].lower() != "cache-control"]
            return start_response(status, kept + added, exc_info)

        return self.app(environ, start_with_token)


def refuse(start_response, challenge, message):
    headers = [("WWW-Authenticate", challenge)]
    return respond(start_response, "401 Unauthorized", headers, {"error": "invalid_token", "message": message})


def respond(start_response, status, headers, content):
    body = json.dumps(content).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))] + headers)
    return [body]
