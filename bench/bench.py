#!/usr/bin/env python3
"""The bench proper; bench/run prepares what it needs and starts it. Prints figures, asserts nothing."""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys

from api_tokens import ApiTokenBench
from herd import LATENCY, HerdBench
from isolation import IsolationBench
from read import ReadBench
from refresh import RefreshBench
from servers import BenchError, Cluster, Endpoints, FastEndpoint, HangingEndpoint, SlowEndpoint
from sessions import SessionBench

BENCHES = ("refresh", "read", "api_tokens", "sessions", "herd", "isolation")
SETTINGS = {"max_connections": 1100, "shared_buffers": "256MB", "max_wal_size": "4GB"}


def parse_arguments():
    parser = argparse.ArgumentParser(prog="bench/run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=BENCHES)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dir", help=argparse.SUPPRESS)
    parser.add_argument("--bindir", help=argparse.SUPPRESS)
    parser.add_argument("--node-dir", help=argparse.SUPPRESS)
    return parser.parse_args()


def first_line(*command):
    try:
        return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.splitlines()[0]
    except (OSError, IndexError):
        return "missing"


def processor():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def print_machine(arguments):
    load = os.getloadavg()
    print("machine")
    for name, value in (
            ("processors", f"{os.cpu_count()} x {processor()}"),
            ("load before the start", f"{load[0]:.1f} (figures mean little when others are at work)"),
            ("system", f"{platform.system()} {platform.release()}"),
            ("PostgreSQL", first_line(os.path.join(arguments.bindir, "postgres"), "--version")),
            ("nginx", first_line(os.path.join(arguments.dir, "nginx"), "-v")),
            ("libcurl", first_line("curl-config", "--version")),
            ("OpenSSL", first_line("openssl", "version")),
            ("node", first_line("node", "--version") if arguments.node_dir else "left out")):
        print(f"  {name:24}{value}")


def print_table(rows):
    print(f"\n{'':5}{'what':62}{'target':>9}{'ratio':>9}   median (all rounds)")
    for number, what, target, ratio, values, unit in rows:
        shown = "-" if ratio is None else f"{ratio:.2f}"
        values = sorted(values)
        middle = values[len(values) // 2]
        print(f"{number:5}{what:62}{target:>9}{shown:>9}   {middle:,.0f} {unit} ({', '.join(f'{v:,.0f}' for v in values)})")


def make_benches(arguments, cluster):
    """(bench, the endpoint it needs or None) for each that is wanted."""
    for name in arguments.only or BENCHES:
        if name == "refresh":
            endpoint = FastEndpoint(arguments.dir)
            yield RefreshBench(cluster, endpoint, arguments.dir, arguments.node_dir), endpoint
        elif name == "read":
            yield ReadBench(cluster, arguments.dir), None
        elif name == "api_tokens":
            yield ApiTokenBench(cluster, arguments.dir), None
        elif name == "sessions":
            yield SessionBench(cluster, arguments.dir), None
        elif name == "isolation":
            healthy, hanging = FastEndpoint(arguments.dir), HangingEndpoint()
            yield IsolationBench(cluster, healthy, hanging), Endpoints(healthy, hanging)
        else:
            endpoint = SlowEndpoint(arguments.dir, LATENCY)
            yield HerdBench(cluster, endpoint, arguments.dir), endpoint


def measure(bench, endpoint, rounds):
    try:
        if endpoint is not None:
            endpoint.start()
        bench.prepare()
        for number in range(1, rounds + 1):
            print(f"{type(bench).__name__}: round {number} of {rounds}", file=sys.stderr, flush=True)
            bench.round()
        return list(bench.rows())
    finally:
        if endpoint is not None:
            endpoint.stop()


def main():
    arguments = parse_arguments()
    if arguments.check:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print_machine(arguments)
    cluster = Cluster(arguments.dir, arguments.bindir, SETTINGS)
    rows = []
    try:
        cluster.start()
        print("settings\n  " + "\n  ".join(cluster.changed_settings()), flush=True)
        for bench, endpoint in make_benches(arguments, cluster):
            rows += measure(bench, endpoint, arguments.rounds)
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        if os.path.exists(cluster.log_file):
            print("the end of the server's log:\n" + cluster.log_tail(), file=sys.stderr)
        sys.exit(1)
    finally:
        cluster.stop()
        if rows:
            print_table(rows)


if __name__ == "__main__":
    main()
