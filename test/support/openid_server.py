#!/usr/bin/env python3
"""An OpenID provider for tests that signs in whomever it is told to, and misbehaves when it is told to. Standard
library, and the openssl command for keys.

usage: openid_server.py --port-file FILE

Listens on a free port of 127.0.0.1, writes its number to FILE and runs until its standard input is closed.

GET  /.well-known/openid-configuration   OpenID Connect Discovery 1.0
GET  /authorize                          answers at once, with a redirect that brings code, state and iss; the user is
                                         the parameter login_hint, or "alice"
POST /token                              authorization_code (RFC 6749 4.1.3, RFC 7636) and refresh_token
GET  /jwks, GET /userinfo, POST /revoke
POST /test/control                       JSON: see DEFAULTS
POST /test/rotate                        JSON {keep}: a new signing key; the old one stays published if keep
GET  /test/stats                         counters; tokens: whose each living one is; arrived: requests by path;
                                         verifiers: the code_verifiers that came

A code is good once. Presented again it is counted (code_reuse) and refused.
"""

import argparse
import base64
import hashlib
import hmac
import http.server
import json
import os
import secrets
import subprocess
import tempfile
import threading
import time
import urllib.parse

from loopback import LoopbackServer, listen, port_of, serve_until_stdin_closes

DEFAULTS = {
    "claims": {},  # set in every id_token; null removes one
    "forge": "",  # how the id_token is made wrong, see forged()
    "id_token": True,
    "userinfo": {},  # what /userinfo answers besides sub
    "lifetime": 3600,  # of an access token, seconds
    "down": [],  # paths that answer 503, such as "/jwks"
    "hang": 0,  # seconds before /token answers
    "slow": {},  # from paths to the seconds before they answer
    "raw": {},  # from paths to [status, content type, text], which they answer
    "refuse": "",  # the error with which /token answers
    "metadata": {},  # set in the discovery document; null removes one
}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class RsaKey:
    def __init__(self, directory):
        self.kid = secrets.token_hex(4)
        self.pem = os.path.join(directory, self.kid)
        run = lambda *command, **options: subprocess.run(["openssl", *command], check=True, capture_output=True, **options).stdout
        run("genrsa", "-out", self.pem, "2048")
        self.public_pem = run("rsa", "-in", self.pem, "-pubout")
        modulus = run("rsa", "-in", self.pem, "-noout", "-modulus").split(b"=")[1].strip()
        self.jwk = {"kty": "RSA", "use": "sig", "kid": self.kid, "n": b64(bytes.fromhex(modulus.decode())), "e": "AQAB"}

    def sign(self, message):
        return subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.pem], input=message, check=True,
                              capture_output=True).stdout


class Provider:
    def __init__(self, url, directory):
        self.url, self.directory = url, directory
        self.lock = threading.Lock()
        self.settings = dict(DEFAULTS)
        self.stats = {"requests": 0, "codes": 0, "code_reuse": 0, "refreshed": 0, "jwks": 0, "userinfo": 0, "revoked": [], "arrived": {},
                      "verifiers": []}
        self.codes, self.tokens = {}, {}
        self.client = {"client_id": "app", "client_secret": secrets.token_urlsafe(24)}
        self.key = RsaKey(directory)
        self.published = [self.key.jwk]

    def id_token(self, user, nonce):
        now = int(time.time())
        claims = {"iss": self.url, "sub": user, "aud": "app", "iat": now, "exp": now + 300, "nonce": nonce, "name": user.title()}
        claims = {name: value for name, value in {**claims, **self.settings["claims"]}.items() if value is not None}
        header = {"alg": "RS256", "kid": self.key.kid}
        return self.forged(header, json.dumps(claims))

    def forged(self, header, claims):
        how = self.settings["forge"]
        if how == "alg_none":
            return ".".join([b64(json.dumps({"alg": "none"}).encode()), b64(claims.encode()), ""])
        if how == "hs256":  # with the public key as the secret
            header["alg"] = "HS256"
        if how == "unknown_kid":
            header["kid"] = "never-published"
        if how == "twice":
            claims = claims[:-1] + ', "sub": "mallory"}'
        message = f"{b64(json.dumps(header).encode())}.{b64(claims.encode())}"
        if how == "hs256":
            signature = hmac.new(self.key.public_pem, message.encode(), hashlib.sha256).digest()
        else:
            signature = self.key.sign(message.encode())
        token = f"{message}.{b64(signature)}"
        if how == "five_parts":
            return token + ".a.b"
        if how == "other_claims":
            parts = token.split(".")
            return ".".join([parts[0], b64(claims.replace("alice", "mallory").encode()), parts[2]])
        return token

    def tokens_for(self, user, nonce, openid):
        answer = {"access_token": "at_" + secrets.token_urlsafe(24), "refresh_token": "rt_" + secrets.token_urlsafe(24),
                  "token_type": "Bearer", "expires_in": self.settings["lifetime"]}
        self.tokens[answer["access_token"]] = self.tokens[answer["refresh_token"]] = user
        if openid and self.settings["id_token"]:
            answer["id_token"] = self.id_token(user, nonce)
        return answer

    def exchange(self, form):
        request = self.codes.get(form.get("code"))
        if request is None:
            return 400, {"error": "invalid_grant", "error_description": "unknown code"}
        with self.lock:
            if request["used"]:
                self.stats["code_reuse"] += 1
                return 400, {"error": "invalid_grant", "error_description": "the code was used"}
            request["used"] = True
            self.stats["codes"] += 1
        self.stats["verifiers"].append(form.get("code_verifier"))
        challenge = b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if request.get("code_challenge", challenge) != challenge or form.get("redirect_uri") != request["redirect_uri"]:
            return 400, {"error": "invalid_grant", "error_description": "code_verifier or redirect_uri is wrong"}
        openid = "openid" in request.get("scope", "").split()
        return 200, self.tokens_for(request["user"], request.get("nonce"), openid)

    def refresh(self, form):
        user = self.tokens.pop(form.get("refresh_token"), None)
        if user is None:
            return 400, {"error": "invalid_grant"}
        with self.lock:
            self.stats["refreshed"] += 1
        return 200, self.tokens_for(user, None, False)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format, *args):
        pass

    def answer(self, status, value, headers={}, text=None):
        payload = (json.dumps(value) if text is None else text).encode()
        self.send_response(status)
        for name, content in {"Content-Type": "application/json", **headers, "Content-Length": str(len(payload))}.items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(payload)

    def do_GET(self):
        self.dispatch()

    def do_POST(self):
        self.dispatch()

    def dispatch(self):
        provider = self.server.provider
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        with provider.lock:
            provider.stats["arrived"][url.path] = provider.stats["arrived"].get(url.path, 0) + 1
        time.sleep(provider.settings["slow"].get(url.path, 0))
        if url.path in provider.settings["raw"]:
            status, content_type, text = provider.settings["raw"][url.path]
            return self.answer(status, None, {"Content-Type": content_type}, text)
        if url.path in provider.settings["down"]:
            return self.answer(503, {"error": "temporarily_unavailable"})
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        handle = {
            "GET /.well-known/openid-configuration": self.metadata, "GET /authorize": self.authorize, "POST /token": self.token,
            "GET /jwks": self.jwks, "GET /userinfo": self.userinfo, "POST /revoke": self.revoke,
            "POST /test/control": self.control, "POST /test/rotate": self.rotate, "GET /test/stats": self.stats,
        }.get(f"{self.command} {url.path}")
        if handle is None:
            return self.answer(404, {"error": "no such resource"})
        handle(provider, query, body)

    def metadata(self, provider, query, body):
        document = {
            "issuer": provider.url, "authorization_endpoint": provider.url + "/authorize", "token_endpoint": provider.url + "/token",
            "jwks_uri": provider.url + "/jwks", "userinfo_endpoint": provider.url + "/userinfo",
            "revocation_endpoint": provider.url + "/revoke", "response_types_supported": ["code"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"]}
        self.answer(200, {name: value for name, value in {**document, **provider.settings["metadata"]}.items() if value is not None})

    def authorize(self, provider, query, body):
        code = "code_" + secrets.token_urlsafe(24)
        provider.codes[code] = {**query, "user": query.get("login_hint", "alice"), "used": False}
        back = urllib.parse.urlencode({"code": code, "state": query["state"], "iss": provider.url})
        self.answer(302, {}, {"Location": f"{query['redirect_uri']}?{back}"})

    def token(self, provider, query, body):
        form = dict(urllib.parse.parse_qsl(body, keep_blank_values=True))
        time.sleep(provider.settings["hang"])
        with provider.lock:
            provider.stats["requests"] += 1
        expected = f"{provider.client['client_id']}:{provider.client['client_secret']}"
        basic = base64.b64encode(expected.encode()).decode()
        if self.headers.get("Authorization") != "Basic " + basic:
            return self.answer(401, {"error": "invalid_client"})
        if provider.settings["refuse"]:
            return self.answer(400, {"error": provider.settings["refuse"], "error_description": f"no: {form.get('code')}"})
        self.answer(*(provider.refresh(form) if form.get("grant_type") == "refresh_token" else provider.exchange(form)))

    def jwks(self, provider, query, body):
        provider.stats["jwks"] += 1
        self.answer(200, {"keys": provider.published})

    def userinfo(self, provider, query, body):
        provider.stats["userinfo"] += 1
        user = provider.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if user is None:
            return self.answer(401, {"error": "invalid_token"})
        self.answer(200, {"sub": user, **provider.settings["userinfo"]})

    def revoke(self, provider, query, body):
        form = dict(urllib.parse.parse_qsl(body))
        provider.stats["revoked"].append([form.get("token_type_hint"), provider.tokens.pop(form.get("token"), None)])
        self.answer(200, {})

    def control(self, provider, query, body):
        provider.settings = {**DEFAULTS, **json.loads(body)}
        self.answer(200, {})

    def rotate(self, provider, query, body):
        old = provider.published if json.loads(body).get("keep") else []
        provider.key = RsaKey(provider.directory)
        provider.published = [provider.key.jwk, *old]
        self.answer(200, {})

    def stats(self, provider, query, body):
        self.answer(200, {**provider.stats, "client": provider.client, "tokens": dict(provider.tokens)})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", required=True)
    arguments = parser.parse_args()
    server = listen(lambda address: LoopbackServer(address, Handler))
    with tempfile.TemporaryDirectory() as directory:
        server.provider = Provider(f"http://127.0.0.1:{port_of(server)}", directory)
        serve_until_stdin_closes(server, arguments.port_file)


if __name__ == "__main__":
    main()
