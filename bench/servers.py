"""The servers of the bench, all in one temporary directory: a PostgreSQL cluster, nginx, the tests' token server."""

import base64
import json
import os
import random
import re
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

SOURCE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATABASE = "bench"


class BenchError(Exception):
    """Something that makes the figures worthless."""


def stop(process, how=signal.SIGTERM):
    if process is None or process.poll() is not None:
        return
    process.send_signal(how)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"waited in vain for {what}")
        time.sleep(0.02)


def run(command, **options):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600, **options)
    if done.returncode != 0:
        raise BenchError(f"{os.path.basename(command[0])} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


class Cluster:
    """PostgreSQL on a unix socket, durable. Started by root it runs as the user postgres."""

    def __init__(self, work_dir, bindir, settings):
        self.bindir = bindir
        self.data_dir = os.path.join(work_dir, "data")
        self.socket_dir = os.path.join(work_dir, "socket")
        self.key_file = os.path.join(work_dir, "keys")
        self.log_file = os.path.join(work_dir, "server.log")
        self.process = None
        self.settings = {
            "listen_addresses": "", "unix_socket_directories": self.socket_dir,
            "shared_preload_libraries": "token_refresh", "token_refresh.key_file": self.key_file, **settings}

    def start(self):
        as_server_user = {}
        for directory in (self.data_dir, self.socket_dir):
            os.mkdir(directory, 0o700)
        with open(os.open(self.key_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"bench {base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        if os.geteuid() == 0:
            as_server_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            for path in (self.data_dir, self.socket_dir, self.key_file):
                shutil.chown(path, "postgres", "postgres")
        run([os.path.join(self.bindir, "initdb"), "-D", self.data_dir, "-A", "trust", "-U", "postgres", "-E", "UTF8",
             "--no-locale"], cwd="/", **as_server_user)
        with open(os.path.join(self.data_dir, "postgresql.conf"), "a") as file:
            for name, value in self.settings.items():
                file.write(f"{name} = '{value}'\n")
        with open(self.log_file, "w") as log:
            self.process = subprocess.Popen([os.path.join(self.bindir, "postgres"), "-D", self.data_dir], cwd="/",
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, **as_server_user)
        wait_until(self.answers, "the PostgreSQL server")
        self.sql(f"CREATE DATABASE {DATABASE}", database="postgres")
        self.sql("CREATE EXTENSION token_refresh")
        wait_until(lambda: self.sql("SELECT phase FROM token_refresh._refresher_state()") == "running", "the refresher")

    def answers(self):
        if self.process.poll() is not None:
            raise BenchError("the PostgreSQL server did not start: " + self.log_tail())
        command = [os.path.join(self.bindir, "pg_isready"), "-q", "-h", self.socket_dir, "-U", "postgres", "-d", "postgres"]
        return subprocess.run(command).returncode == 0

    def sql(self, script, database=DATABASE, **variables):
        """Runs a psql script, given through standard input; returns its output without trailing blanks."""
        command = [os.path.join(self.bindir, "psql"), "-h", self.socket_dir, "-U", "postgres", "-d", database, "-XAtq",
                   "-v", "ON_ERROR_STOP=1"]
        for name, value in variables.items():
            command += ["-v", f"{name}={value}"]
        return run([*command, "-f", "-"], input=script, cwd="/")

    def changed_settings(self):
        rows = self.sql("SELECT name || ' = ' || current_setting(name) FROM pg_settings"
                        " WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method',"
                        " 'checkpoint_timeout', 'autovacuum', 'wal_level')"
                        " OR source = 'configuration file' ORDER BY name")
        hidden = ("data_directory", "config_file", "hba_file", "ident_file", "unix_socket", "token_refresh.key_file",
                  "log_timezone", "TimeZone", "DateStyle", "lc_", "default_text_search", "dynamic_shared")
        return [row for row in rows.splitlines() if not row.startswith(hidden)]

    def log_tail(self):
        with open(self.log_file) as file:
            return "".join(file.readlines()[-15:])

    def stop(self):
        stop(self.process, signal.SIGINT)


NGINX_CONF = """
daemon off;
pid {dir}/nginx.pid;
worker_processes 1;
worker_rlimit_nofile 8192;
error_log {dir}/nginx_error.log crit;
{user}
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 300s;
  client_body_temp_path {dir}/nginx_tmp;
  proxy_temp_path {dir}/nginx_tmp;
  fastcgi_temp_path {dir}/nginx_tmp;
  uwsgi_temp_path {dir}/nginx_tmp;
  scgi_temp_path {dir}/nginx_tmp;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /token {{
      default_type application/json;
      return 200 '{answer}';
    }}
  }}
}}
"""

# Both tokens are new each time: $request_id is a random number in 32 hexadecimal digits.
NGINX_ANSWER = ('{"access_token":"at_$request_id$request_id$request_id","token_type":"Bearer","expires_in":3600,'
                '"refresh_token":"rt_$request_id$request_id","scope":"openid email calendar.read"}')


class FastEndpoint:
    """A token endpoint that answers as fast as one nginx process can."""

    def __init__(self, work_dir):
        self.dir = os.path.join(work_dir, "endpoint")
        self.binary = os.path.join(work_dir, "nginx")
        self.process = None

    def start(self):
        os.makedirs(self.dir, 0o755, exist_ok=True)
        user = "user nobody nogroup;" if os.geteuid() == 0 else ""
        for _ in range(20):
            port = random.randrange(20000, 32000)  # below the range of outgoing connections
            with open(os.path.join(self.dir, "nginx.conf"), "w") as file:
                file.write(NGINX_CONF.format(dir=self.dir, port=port, user=user, answer=NGINX_ANSWER))
            self.process = subprocess.Popen([self.binary, "-p", self.dir, "-c", "nginx.conf"],
                                            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.url = f"http://127.0.0.1:{port}/token"
            for _ in range(100):
                if self.process.poll() is not None:
                    break
                try:
                    self.answer_bytes = len(urllib.request.urlopen(self.url, b"", timeout=5).read())
                    return
                except OSError:
                    time.sleep(0.02)
        raise BenchError("nginx did not start")

    def stop(self):
        stop(self.process)


class SlowEndpoint:
    """The tests' token server: it counts requests and takes its time."""

    def __init__(self, work_dir, latency):
        self.port_file = os.path.join(work_dir, "token_server.port")
        self.latency = latency
        self.process = None

    def start(self):
        script = os.path.join(SOURCE_DIR, "test", "support", "token_server.py")
        self.process = subprocess.Popen(["python3", script, "--port-file", self.port_file], stdin=subprocess.PIPE)
        wait_until(lambda: os.path.exists(self.port_file), "the token server")
        with open(self.port_file) as file:
            self.base = f"http://127.0.0.1:{file.read().strip()}/bench"
        self.url = self.base + "/token"
        self.ask("control", {"latency": self.latency})

    def ask(self, action, options=None):
        data = None if options is None else json.dumps(options).encode()
        with urllib.request.urlopen(f"{self.base}/{action}", data, timeout=10) as answer:
            return json.loads(answer.read())

    def stop(self):
        if self.process is not None:
            self.process.stdin.close()
        stop(self.process)


class HangingEndpoint:
    """A token endpoint that takes every request and, while it holds, answers none. One thread of the bench itself, so
    that hanging costs next to no processor time."""

    ANSWER = b'{"access_token":"at_hanging","token_type":"Bearer","expires_in":86400}'
    RESPONSE = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)) + ANSWER

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/token"
        self.waker, self.woken = socket.socketpair()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.holds = False
        self.ended = False
        self.waiting = []  # connections whose request hangs
        self.answered = 0

    def start(self):
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.woken, selectors.EVENT_READ)
        self.thread.start()

    def serve(self):
        while not self.ended:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    connection, _ = self.listener.accept()
                    self.selector.register(connection, selectors.EVENT_READ, bytearray())
                elif key.fileobj is self.woken:
                    self.woken.recv(100)
                else:
                    self.read(key.fileobj, key.data)
            while self.waiting and not self.holds:
                self.waiting.pop().sendall(self.RESPONSE)
                self.answered += 1

    def read(self, connection, request):
        try:
            piece = connection.recv(65536)
        except OSError:
            piece = b""
        if not piece:
            self.selector.unregister(connection)
            connection.close()
            return
        request += piece
        head, end, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
        if end and length and len(body) >= int(length.group(1)):
            request.clear()
            self.waiting.append(connection)

    def hold(self, holds):
        self.holds = holds
        self.waker.send(b"x")

    def stop(self):
        if self.thread.is_alive():
            self.ended = True
            self.waker.send(b"x")
            self.thread.join(30)


class Endpoints:
    """Several that come and go together."""

    def __init__(self, *endpoints):
        self.endpoints = endpoints

    def start(self):
        for endpoint in self.endpoints:
            endpoint.start()

    def stop(self):
        for endpoint in self.endpoints:
            endpoint.stop()
