"""The OAuth servers of the demo: processes that end when their standard input does."""

import json
import os
import secrets
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request


class Provider:
    """Starts the server. Its standard input is the pipe of the process that keeps the demo alive."""

    def __init__(self, name, command, demo_dir, keeper_pipe, environment=None):
        self.name = name
        self.port_file = os.path.join(demo_dir, f"{name}.port")
        log = os.open(os.path.join(demo_dir, f"{name}.log"), os.O_CREAT | os.O_WRONLY, 0o600)
        self.process = subprocess.Popen([*command, "--port-file", self.port_file], stdin=keeper_pipe, stdout=log, stderr=log,
                                        env={**os.environ, **(environment or {})}, start_new_session=True)
        os.close(log)

    def wait_until_ready(self):
        deadline = time.monotonic() + 20
        while not os.path.exists(self.port_file):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server of {self.name} did not start, see {self.name}.log")
            time.sleep(0.05)
        with open(self.port_file) as file:
            self.url = f"http://127.0.0.1:{file.read().strip()}"
        self.connect()
        return self

    def call(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


class OidcProvider(Provider):
    description = "oidc-provider from npm, with rotating refresh tokens"

    def __init__(self, name, lifetime, demo_dir, keeper_pipe, server_dir):
        super().__init__(name, ["node", os.path.join(server_dir, "server.mjs")], demo_dir, keeper_pipe,
                         {"ACCESS_TOKEN_TTL": str(lifetime)})

    def connect(self):
        self.token_endpoint = f"{self.url}/token"
        self.client = next(client for client in self.call("/test/clients") if client["client_id"] == "basic")

    def grants(self, count):
        return self.call(f"/test/grants?client=basic&n={count}")

    def break_down(self):
        self.call("/test/control?broken=true", method="POST")

    def mend(self):
        self.call("/test/control?broken=false", method="POST")

    def stats(self):
        return self.call("/test/stats")

    def accepts(self, token):
        return self.call(f"/test/introspect?token={urllib.parse.quote(token)}")["active"]


class BuiltInProvider(Provider):
    description = "the built-in stand-in, with rotating refresh tokens"

    def __init__(self, name, lifetime, demo_dir, keeper_pipe, script):
        super().__init__(name, ["python3", script], demo_dir, keeper_pipe)
        self.lifetime = lifetime

    def connect(self):
        self.token_endpoint = f"{self.url}/demo/token"
        self.client = {"client_id": "demo", "client_secret": secrets.token_urlsafe(24),
                       "token_endpoint_auth_method": "client_secret_basic"}
        self.call("/demo/control", {"lifetime": self.lifetime, "auth": {
            "method": "basic", "client_id": self.client["client_id"], "client_secret": self.client["client_secret"]}})

    def grants(self, count):
        return self.call("/demo/grants", {"n": count})

    def break_down(self):
        self.call("/demo/control", {"fault": {"kind": "status", "status": 500}})

    def mend(self):
        self.call("/demo/control", {"fault": {"kind": "none"}})

    def stats(self):
        return self.call("/demo/stats")

    def accepts(self, token):
        return self.call(f"/demo/introspect?token={urllib.parse.quote(token)}")["active"]
