#!/usr/bin/env python3
"""The demo proper; demo/run prepares what it needs and starts it."""

import argparse
import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time

from providers import BuiltInProvider, OidcProvider
from screen import LinePrinter, TableScreen

SOURCE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SUBJECTS = {
    "acme": ["alice", "bob", "carol", "dave", "erin", "frank"],
    "globex": ["grace", "heidi", "ivan", "judy", "mallory", "niaj"],
}
TOKEN_LIFETIME = {"acme": 10, "globex": 8}  # seconds
RUNS_ON_FOR = 1800  # seconds after which everything stops by itself

STATUS_QUERY = """
SELECT coalesce(json_agg(t ORDER BY provider, subject), '[]') FROM (
  SELECT provider, subject, status, refresh_count, attempts, last_error,
         extract(epoch FROM expires_at - clock_timestamp()) AS expires_in
  FROM token_refresh.token_status) t
"""


class Cluster:
    """A temporary PostgreSQL cluster on a unix socket; root hands it over to the user postgres."""

    def __init__(self, demo_dir, bindir):
        self.dir = demo_dir
        self.bindir = bindir
        self.socket_dir = os.path.join(demo_dir, "socket")
        self.data_dir = os.path.join(demo_dir, "data")
        self.prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def run(self, program, *arguments, **options):
        return subprocess.run([*self.prefix, os.path.join(self.bindir, program), *arguments], check=True, text=True,
                              stdout=subprocess.PIPE, cwd="/", **options).stdout

    def start(self):
        for directory in (self.socket_dir, self.data_dir):
            os.mkdir(directory, 0o700)
        key_file = os.path.join(self.dir, "keys")
        with open(os.open(key_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"demo {base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        if self.prefix:
            for path in (self.socket_dir, self.data_dir, key_file):
                shutil.chown(path, "postgres", "postgres")
        self.run("initdb", "-D", self.data_dir, "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--no-locale",
                 stderr=subprocess.STDOUT)
        settings = {
            "listen_addresses": "", "unix_socket_directories": self.socket_dir, "fsync": "off",
            "shared_preload_libraries": "token_refresh", "token_refresh.key_file": key_file,
        }
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self.run("pg_ctl", "-D", self.data_dir, "-l", os.path.join(self.data_dir, "server.log"), "-o", options,
                 "-w", "-s", "start")
        self.sql("CREATE DATABASE demo", database="postgres")
        self.sql("CREATE EXTENSION token_refresh")

    def sql(self, statements, database="demo"):
        """Through standard input: arguments of a command are for everybody to see."""
        return self.run("psql", "-h", self.socket_dir, "-U", "postgres", "-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1",
                        "-f", "-", input=statements).rstrip("\n")

    def log_tail(self):
        try:
            with open(os.path.join(self.data_dir, "server.log")) as file:
                return "".join(file.readlines()[-15:])
        except OSError:
            return ""


def literal(value):
    return "'" + value.replace("'", "''") + "'"


class Demo:
    def __init__(self, arguments):
        self.arguments = arguments
        self.dir = arguments.dir
        self.cluster = Cluster(self.dir, arguments.bindir)
        self.providers = {}
        self.screen = TableScreen() if sys.stdout.isatty() else LinePrinter()

    def start_keeper(self):
        """The process that outlives the demo. Returns the end of a pipe that stays open as long as it lives."""
        read_end, write_end = os.pipe()
        stop_script = os.path.join(self.dir, "stop")
        shutil.copy(os.path.join(SOURCE_DIR, "demo", "stop"), stop_script)
        keeper = subprocess.Popen(["bash", stop_script, "--after", str(RUNS_ON_FOR), self.dir], pass_fds=[write_end],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  start_new_session=True)
        os.close(write_end)
        for name, text in (("bindir", self.arguments.bindir), ("keeper.pid", str(keeper.pid))):
            with open(os.path.join(self.dir, name), "w") as file:
                file.write(text)
        return read_end

    def set_up(self):
        keeper_pipe = self.start_keeper()
        for name, lifetime in TOKEN_LIFETIME.items():
            if self.arguments.oidc_server:
                provider = OidcProvider(name, lifetime, self.dir, keeper_pipe, self.arguments.oidc_server)
            else:
                provider = BuiltInProvider(name, lifetime, self.dir, keeper_pipe,
                                           os.path.join(SOURCE_DIR, "test", "support", "token_server.py"))
            self.providers[name] = provider
        os.close(keeper_pipe)
        self.cluster.start()
        for name, provider in self.providers.items():
            self.register(name, provider.wait_until_ready())

    def register(self, name, provider):
        options = {"token_endpoint": provider.token_endpoint, "max_attempt_delay": "2 s",
                   "token_endpoint_auth_method": provider.client["token_endpoint_auth_method"]}
        self.cluster.sql(f"SELECT token_refresh.create_provider({literal(name)}, "
                         f"client_id => {literal(provider.client['client_id'])}, "
                         f"client_secret => {literal(provider.client['client_secret'])}, "
                         f"options => {literal(json.dumps(options))})")
        self.cluster.sql("".join(
            f"SELECT token_refresh.store_credential({literal(name)}, {literal(subject)}, {literal(json.dumps(grant))});\n"
            for subject, grant in zip(SUBJECTS[name], provider.grants(len(SUBJECTS[name])))))

    def rows(self):
        return json.loads(self.cluster.sql(STATUS_QUERY))

    def watch(self, seconds, headline, until=None):
        """Shows the table each second, at most for so long. until: ends it earlier."""
        end = time.monotonic() + seconds
        while True:
            rows = self.rows()
            self.screen.show(headline, rows)
            if time.monotonic() >= end or (until and until(rows)):
                return
            time.sleep(1)

    def play(self):
        print(f"Two OAuth servers on 127.0.0.1 ({self.providers['acme'].description}), twelve credentials.")
        self.watch(15, "Tokens live 8 to 10 s. PostgreSQL refreshes them in time; no application runs.")
        broken = self.providers["globex"]
        broken.break_down()
        self.watch(13, "globex is broken now: its token endpoint answers 500. acme is not affected.")
        broken.mend()
        total = sum(len(subjects) for subjects in SUBJECTS.values())
        mended_at = time.monotonic()
        self.watch(14, "globex is mended. Nobody needs to sign in again.",
                   until=lambda rows: time.monotonic() > mended_at + 6 and connected(rows) == total)
        return self.prove(total)

    def prove(self, total):
        """What the database and the providers say about it. True when nothing was lost."""
        rows = self.rows()
        accepted = 0
        for name, provider in self.providers.items():
            tokens = self.cluster.sql("".join(
                f"SELECT token_refresh.get_access_token({literal(name)}, {literal(subject)});\n"
                for subject in SUBJECTS[name])).split("\n")
            accepted += sum(provider.accepts(token) for token in tokens)
        stats = [provider.stats() for provider in self.providers.values()]
        reused = sum(stat["reuse"] for stat in stats)
        print(f"\nconnected:                      {connected(rows)} of {total}")
        print(f"access tokens accepted:         {accepted} of {total}")
        print(f"refreshes:                      {sum(row['refresh_count'] for row in rows)}"
              f" (the servers rotated {sum(stat['refreshed'] for stat in stats)} refresh tokens)")
        print(f"refresh tokens presented twice: {reused}")
        return connected(rows) == total == accepted and reused == 0

    def say_goodbye(self):
        print(f"\nLook around:   psql -h {self.cluster.socket_dir} -U postgres demo"
              "\n               TABLE token_refresh.token_status;"
              "\n               SELECT token_refresh.get_access_token('acme', 'alice');"
              f"\nStop it:       demo/stop {self.dir}"
              f"\n               (it stops by itself after {RUNS_ON_FOR // 60} minutes)")

    def stop(self):
        if os.path.exists(os.path.join(self.dir, "stop")):
            subprocess.run(["bash", os.path.join(self.dir, "stop"), self.dir], stdin=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


def connected(rows):
    return sum(row["status"] == "connected" for row in rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--bindir", required=True)
    parser.add_argument("--oidc-server")
    parser.add_argument("--stop-at-end", action="store_true")
    demo = Demo(parser.parse_args())
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    sys.stdout.reconfigure(line_buffering=True)
    goes_on = False
    try:
        demo.set_up()
        proved = demo.play()
        if not demo.arguments.stop_at_end:
            demo.say_goodbye()
            goes_on = True
        return 0 if proved else 1
    except KeyboardInterrupt:
        return 130
    except subprocess.CalledProcessError as error:
        print(f"{error}\n{error.stdout}{demo.cluster.log_tail()}", file=sys.stderr)
        return 1
    finally:
        if not goes_on:
            demo.stop()


if __name__ == "__main__":
    sys.exit(main())
