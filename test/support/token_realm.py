"""The state behind token_server.py: what a provider knows and how it is told to misbehave."""

import collections
import copy
import json
import re
import secrets
import threading
import time

DEFAULT_SETTINGS = {
    # strict: a refresh token is good once; presented again it kills the grant.
    # replay: as strict, but within replay_window seconds it gets the same answer again.
    # norotate: the refresh token stays.
    "policy": "strict",
    "lifetime": 3600,  # of an access token, seconds
    "replay_window": 0,
    "hang": 0,  # seconds before a request is processed
    "latency": 0,  # seconds between processing and answering
    "hold": False,  # true or "before": requests wait, unprocessed, for /release; "after": processed, unanswered
    "auth": None,  # {"method": "basic" | "post" | "none", "client_id": ..., "client_secret": ...}; null: no check
    "extra": {},  # members set in every token response
    "omit": [],  # members left out of every token response
    "fault": {"kind": "none"},
}

# A fault strikes the next "count" requests (-1: all) whose subject matches the
# regular expression "match", "before" the request is processed (instead of it)
# or "after" (the rotation happened, the answer is lost).
DEFAULT_FAULT = {"kind": "none", "status": None, "body": None, "headers": {}, "count": -1, "match": None, "when": None}
FAULT_KINDS = {
    "none",
    "status",  # status, body, headers as given
    "html",  # an error page
    "garbage",  # 200, not JSON
    "reset",  # TCP reset
    "close",  # connection closed without an answer
    "raw",  # body is everything that is sent
    "reword",  # what is answered, in other words: status, and body with <access_token> and <refresh_token> filled in
    "hang_after",  # half an answer, then nothing until /release
    "invalid_grant",
    "invalid_client",
    "rate_limit",
    "echo",  # an error whose description quotes the refresh token and the client secret
}
POLICIES = {"strict", "replay", "norotate"}


class BadRequest(Exception):
    """The test asked for something that does not exist."""


class Grant:
    """What one subject's refresh tokens stand for."""

    def __init__(self, subject, lifetime):
        self.subject = subject
        self.lifetime = lifetime
        self.refresh_token = new_token("rt")
        self.revoked = False
        self.answers = {}  # used refresh token -> (when, the answer it got)


def new_token(kind):
    return f"{kind}_{secrets.token_hex(16)}"


def error_answer(status, error, description=None, headers=None):
    body = {"error": error}
    if description is not None:
        body["error_description"] = description
    return status, headers or {}, json.dumps(body)


class Realm:
    """One provider: its settings, grants and counters. All under one condition variable."""

    def __init__(self):
        self.changed = threading.Condition()
        self.settings = dict(DEFAULT_SETTINGS)
        self.fault = dict(DEFAULT_FAULT)
        self.grants = {}  # refresh token, current or used -> Grant
        self.access_tokens = {}  # -> (Grant, deadline)
        self.counters = collections.Counter()
        self.per_subject = {}
        self.last = {}
        self.tickets = 0  # given to held requests
        self.released = 0  # tickets up to this one may go on

    # ---- control

    def control(self, changes):
        unknown = set(changes) - set(DEFAULT_SETTINGS)
        if unknown:
            raise BadRequest(f"unknown settings: {sorted(unknown)}")
        if changes.get("policy", "strict") not in POLICIES:
            raise BadRequest("unknown policy")
        fault = changes.pop("fault", None)
        if fault is not None:
            if fault.get("kind") not in FAULT_KINDS or set(fault) - set(DEFAULT_FAULT) - {"error"}:
                raise BadRequest("unknown fault")
        with self.changed:
            self.settings.update(changes)
            if fault is not None:
                self.fault = {**DEFAULT_FAULT, **fault}
            if changes.get("hold") is False:
                self.released = self.tickets
            self.changed.notify_all()
            return {**self.settings, "fault": self.fault}

    def create_grants(self, options):
        prefix = options.get("prefix", "subject")
        subjects = options.get("subjects") or [f"{prefix}{i}" for i in range(1, options.get("n", 1) + 1)]
        with self.changed:
            lifetime = options.get("lifetime", self.settings["lifetime"])
            grants = [Grant(subject, None) for subject in subjects]
            return [{"subject": grant.subject, **self.issue(grant, lifetime)} for grant in grants]

    def release(self, options):
        with self.changed:
            self.settings["hold"] = self.settings["hold"] if options.get("keep") else False
            self.released = self.tickets
            self.changed.notify_all()
            return self.stats()

    def stats(self):
        with self.changed:
            names = ("requests", "refreshed", "reuse", "replayed", "invalid_grant", "invalid_client", "revoked", "faults",
                     "in_flight", "max_in_flight", "held")
            return {**{name: self.counters[name] for name in names}, "per_subject": copy.deepcopy(self.per_subject),
                    **self.last}

    def wait(self, goals, timeout):
        def reached():
            return all(self.counters[name] == 0 if goal == 0 else self.counters[name] >= goal
                       for name, goal in goals.items())

        with self.changed:
            return self.changed.wait_for(reached, timeout)

    def introspect(self, token):
        with self.changed:
            grant, deadline = self.access_tokens.get(token, (None, 0))
            return {"active": grant is not None and not grant.revoked and time.monotonic() < deadline}

    def revoke(self, token):
        with self.changed:
            grant = self.grants.get(token) or self.access_tokens.get(token, (None, 0))[0]
            if grant is not None and not grant.revoked:
                grant.revoked = True
                self.counters["revoked"] += 1
                self.changed.notify_all()

    # ---- a token request, in the order of its life

    def arrive(self, refresh_token, form, headers, auth_method):
        """Counts the request and returns the fault that strikes it."""
        with self.changed:
            self.counters["requests"] += 1
            self.counters["in_flight"] += 1
            self.counters["max_in_flight"] = max(self.counters["max_in_flight"], self.counters["in_flight"])
            grant = self.grants.get(refresh_token)
            subject = grant.subject if grant else ""
            if grant:
                self.per_subject.setdefault(subject, {"requests": 0, "refreshed": 0})["requests"] += 1
            self.last = {"last_request_headers": sorted(name.lower() for name in headers),
                         "last_request_params": sorted(form), "last_auth_method": auth_method}
            self.changed.notify_all()
            return self.next_fault(subject)

    def next_fault(self, subject):
        fault = self.fault
        if fault["kind"] == "none" or fault["count"] == 0 or (fault["match"] and not re.search(fault["match"], subject)):
            return dict(DEFAULT_FAULT)
        if fault["count"] > 0:
            fault["count"] -= 1
        self.counters["faults"] += 1
        return {**fault, "when": fault["when"] or ("after" if fault["kind"] in ("hang_after", "reword") else "before")}

    def hold(self, when):
        with self.changed:
            if self.settings["hold"] in ((True, "before") if when == "before" else ("after",)):
                self.stall()

    def stall(self):
        """Waits for /release, whatever the settings."""
        with self.changed:
            self.tickets += 1
            ticket = self.tickets
            self.counters["held"] += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.released >= ticket)
            self.counters["held"] -= 1

    def leave(self):
        with self.changed:
            self.counters["in_flight"] -= 1
            self.changed.notify_all()

    def refresh(self, form, client):
        """Returns (status, headers, body)."""
        with self.changed:
            auth = self.settings["auth"]
            if auth and client != (auth["method"], auth.get("client_id"), auth.get("client_secret")):
                self.counters["invalid_client"] += 1
                return error_answer(401, "invalid_client", headers={"WWW-Authenticate": "Basic"})
            if form.get("grant_type") != "refresh_token":
                return error_answer(400, "unsupported_grant_type")
            token = form.get("refresh_token")
            grant = self.grants.get(token)
            if grant is None:
                return self.refuse()
            if token != grant.refresh_token:
                return self.presented_again(grant, token)
            if grant.revoked:
                return self.refuse()
            return self.rotate(grant)

    def presented_again(self, grant, token):
        used_at, answer = grant.answers[token]
        replayable = self.settings["policy"] == "replay" and not grant.revoked
        if replayable and time.monotonic() < used_at + self.settings["replay_window"]:
            self.counters["replayed"] += 1
            return 200, {}, json.dumps(answer)
        self.counters["reuse"] += 1
        grant.revoked = True
        return self.refuse()

    def refuse(self):
        self.counters["invalid_grant"] += 1
        return error_answer(400, "invalid_grant", "the refresh token is not valid")

    def rotate(self, grant):
        used = grant.refresh_token
        if self.settings["policy"] != "norotate":
            grant.refresh_token = new_token("rt")
        answer = self.issue(grant, self.settings["lifetime"])
        if self.settings["policy"] == "norotate":
            del answer["refresh_token"]
        else:
            grant.answers[used] = (time.monotonic(), answer)
        answer.update(self.settings["extra"])
        for name in self.settings["omit"]:
            answer.pop(name, None)
        self.counters["refreshed"] += 1
        self.per_subject[grant.subject]["refreshed"] += 1
        self.changed.notify_all()
        return 200, {}, json.dumps(answer)

    def issue(self, grant, lifetime):
        self.grants[grant.refresh_token] = grant
        access_token = new_token("at")
        self.access_tokens[access_token] = (grant, time.monotonic() + lifetime)
        return {"access_token": access_token, "token_type": "Bearer", "expires_in": lifetime,
                "refresh_token": grant.refresh_token}
