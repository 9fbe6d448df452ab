"""How a request to dialect_server.py differs from the one that is expected, and texts with places for values.

An expected request is an object; what it does not say is as the textbook has it:

method        POST
path          /token
format        form, json or query: where the parameters are
auth          basic (RFC 6749: id and secret form-encoded), basic_raw, secret_as_user, post, none (client_id alone), absent
params        exactly these; by default those of a refresh. A text that begins with ~ is a regular expression,
              an object a JWT: {alg, key, lifetime, claims, header}, or an HMAC-SHA256, see headers
query         parameters in the URL besides; by default none
headers       these, whatever others there are; null: it must be absent. An object is an HMAC-SHA256:
              {hmac, key, encoding} (a plain SHA-256 if key is empty), where hmac and key may also hold <body>, <client_secret>, <header:NAME>,
              <param:NAME> (of the body) and <query:NAME>
client_secret another one than that of the row
certificate   the common name in the client's certificate; by default there is none
"""

import base64
import email.utils
import hashlib
import hmac
import json
import os
import re
import subprocess
import tempfile
import time
import urllib.parse

REFRESH = {"grant_type": "refresh_token", "refresh_token": "<presented>"}
CONTENT_TYPES = {"form": "application/x-www-form-urlencoded", "json": "application/json", "query": None}
UUID = "~^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
PART = re.compile(r"<(header|param|query):([\w-]+)>")
PLACE = re.compile(r"<(now|now_ms|iso|http|jwt)([+-]\d+)>|<([a-z_]+)>")
CLOCK_TOLERANCE = 30  # seconds


# ---- texts with places

def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def value_of(match, values):
    kind, offset, name = match.groups()
    if name is not None:
        return str(values[name]) if name in values else match.group(0)
    moment = time.time() + int(offset)
    if kind == "now":
        return str(int(moment))
    if kind == "now_ms":
        return str(int(moment * 1000))
    if kind == "iso":
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    if kind == "http":
        return email.utils.formatdate(moment, usegmt=True)
    return ".".join(b64(part.encode()) for part in ('{"alg":"none"}', json.dumps({"exp": int(moment)}), "signature"))


def filled(text, values):
    return PLACE.sub(lambda match: value_of(match, values), text)


def filled_value(value, values):
    """A whole text <now+3600> or <now_ms+3600> becomes a number."""
    if isinstance(value, dict):
        return {name: filled_value(member, values) for name, member in value.items()}
    if isinstance(value, list):
        return [filled_value(member, values) for member in value]
    if not isinstance(value, str):
        return value
    text = filled(value, values)
    return int(text) if re.fullmatch(r"<now(_ms)?[+-]\d+>", value) else text


def filled_body(body, values):
    """The bytes of an answer: an object as JSON, a text as it is, {"hex": ...} as bytes."""
    if isinstance(body, dict) and set(body) == {"hex"}:
        return bytes.fromhex(body["hex"])
    if isinstance(body, (dict, list)):
        return json.dumps(filled_value(body, values)).encode()
    return filled(body, values).encode()


# ---- comparison

def fits(expected, got):
    if isinstance(expected, str) and expected.startswith("~"):
        return isinstance(got, str) and re.search(expected[1:], got) is not None
    return expected == got


def compare(what, expected, got, wrong):
    for name in sorted({*expected, *got}):
        if name not in got:
            wrong.append(f"{what} {name} is missing")
        elif name not in expected:
            wrong.append(f"{what} {name} is not expected")
        elif not fits(expected[name], got[name]):
            wrong.append(f"{what} {name} is {got[name]!r}, not {expected[name]!r}")


def pairs(text, what, wrong):
    found = {}
    try:
        parsed = urllib.parse.parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    except ValueError:
        wrong.append(f"{what}s cannot be read")
        return {}
    for name, value in parsed:
        if name in found:
            wrong.append(f"{what} {name} comes twice")
        found[name] = value
    return found


def json_object(body, wrong):
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        wrong.append("the body is not a JSON object")
        return {}
    return value


# ---- client authentication

def authorization(auth, script):
    client, secret = script["client_id"], script.get("client_secret") or ""
    if auth == "basic":
        return urllib.parse.quote_plus(client, safe="*") + ":" + urllib.parse.quote_plus(secret, safe="*")
    if auth == "basic_raw":
        return f"{client}:{secret}"
    return f"{secret}:" if auth == "secret_as_user" else None


def check_authorization(auth, request, script, wrong):
    header = request["headers"].get("Authorization")
    expected = authorization(auth, script)
    if expected is None:
        if header is not None:
            wrong.append("there is a header Authorization")
        return
    scheme, _, value = (header or "").partition(" ")
    try:
        got = base64.b64decode(value, validate=True).decode()
    except ValueError:
        got = None
    # Both may encode "~".
    if scheme != "Basic" or got is None or got.replace("%7E", "~") != expected.replace("%7E", "~"):
        wrong.append(f"Authorization is {scheme} {got!r}, not Basic {expected!r}")


def auth_params(auth, script):
    if auth == "post":
        return {"client_id": script["client_id"], "client_secret": script["client_secret"]}
    return {"client_id": script["client_id"]} if auth == "none" else {}


# ---- JWTs

def ecdsa_der(signature):
    def integer(part):
        part = part.lstrip(b"\0") or b"\0"
        part = b"\0" + part if part[0] & 0x80 else part
        return bytes([2, len(part)]) + part
    both = integer(signature[:32]) + integer(signature[32:])
    return bytes([0x30, len(both)]) + both


def is_signed(alg, key, message, signature, secret):
    if alg == "HS256":
        return hmac.compare_digest(hmac.new(secret.encode(), message, hashlib.sha256).digest(), signature)
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("message", "signature")]
        for path, data in zip(paths, (message, ecdsa_der(signature) if alg == "ES256" else signature)):
            with open(path, "wb") as file:
                file.write(data)
        if alg == "EdDSA":
            command = ["pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", paths[0], "-sigfile", paths[1]]
        else:
            padding = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"] if alg == "PS256" else []
            command = ["dgst", "-sha256", *padding, "-verify", key, "-signature", paths[1], paths[0]]
        return subprocess.run(["openssl", *command], capture_output=True).returncode == 0


def check_jwt(what, spec, token, script, keys, wrong):
    try:
        parts = token.split(".")
        header, claims, signature = json.loads(unb64(parts[0])), json.loads(unb64(parts[1])), unb64(parts[2])
    except (AttributeError, IndexError, ValueError):
        wrong.append(f"{what} is no JWT")
        return
    values = script["values"]
    expected = {"iss": "<client_id>", "sub": "<client_id>", "aud": "<url>/token", "jti": UUID, **spec.get("claims", {})}
    times = {name: claims.pop(name, None) for name in ("iat", "exp")}
    compare(f"{what}: claim", {n: filled_value(v, values) for n, v in expected.items() if v is not None}, claims, wrong)
    compare(f"{what}: header", {"typ": "JWT", "alg": spec["alg"], **spec.get("header", {})}, header, wrong)
    if not all(isinstance(moment, int) for moment in times.values()):
        wrong.append(f"{what}: iat or exp is no whole number")
    elif abs(times["iat"] - time.time()) > CLOCK_TOLERANCE or times["exp"] - times["iat"] != spec.get("lifetime", 60):
        wrong.append(f"{what}: iat {times['iat']}, exp {times['exp']}")
    key = os.path.join(keys, f"{spec.get('key')}.pub")
    if not is_signed(spec["alg"], key, f"{parts[0]}.{parts[1]}".encode(), signature, script.get("client_secret") or ""):
        wrong.append(f"{what}: the signature does not verify")


# ---- signatures

def signature_of(spec, parts, script):
    """parts: {header, param, query} of the request by their names, and its body."""
    values = {**script["values"], "body": parts["body"].decode(), "client_secret": script.get("client_secret") or ""}

    def text(template):
        return filled(PART.sub(lambda match: str(parts[match.group(1)].get(match.group(2), "")), template), values).encode()
    key = spec.get("key", "<client_secret>")
    signed = text(spec["hmac"])
    digest = hmac.new(text(key), signed, hashlib.sha256).digest() if key else hashlib.sha256(signed).digest()
    encoding = spec.get("encoding", "hex")
    if encoding == "base64":
        return base64.b64encode(digest).decode()
    return digest.hex().upper() if encoding == "hex_upper" else digest.hex()


def with_signatures(expected, parts, script):
    return {name: signature_of(value, parts, script) if isinstance(value, dict) and "hmac" in value else value
            for name, value in expected.items()}


# ---- a request

def check_params(expected, got, script, keys, wrong):
    plain = {}
    for name, value in expected.items():
        if isinstance(value, dict):
            check_jwt(name, value, got.pop(name, None), script, keys, wrong)
        else:
            plain[name] = filled(value, script["values"]) if isinstance(value, str) else value
    compare("parameter", plain, got, wrong)


def check_headers(expected, got, values, wrong):
    for name, value in expected.items():
        found = got.get(name)
        if value is None and found is not None:
            wrong.append(f"there is a header {name}")
        elif value is not None and not fits(filled(value, values), found):
            wrong.append(f"header {name} is {found!r}, not {filled(value, values)!r}")


def differences(expected, request, script, keys):
    """What is wrong with a request, as a list of texts."""
    wrong = []
    script = {**script, "client_secret": expected.get("client_secret", script.get("client_secret"))}
    where, auth = expected.get("format", "form"), expected.get("auth", "basic")
    compare("the", {"method": expected.get("method", "POST"), "path": filled(expected.get("path", "/token"), script["values"]),
                    "certificate": expected.get("certificate")},
            {name: request[name] for name in ("method", "path", "certificate")}, wrong)
    query = pairs(request["query"], "query parameter", wrong)
    body = {}
    if where == "form":
        body = pairs(request["body"].decode(errors="replace"), "parameter", wrong)
    elif where == "json":
        body = json_object(request["body"], wrong)
    elif request["body"]:
        wrong.append("there is a body")
    parts = {"header": request["headers"], "param": dict(body), "query": dict(query), "body": request["body"]}
    headers = with_signatures(expected.get("headers", {}), parts, script)
    content_type = CONTENT_TYPES[where]
    if content_type is not None or request["body"]:
        headers = {"Content-Type": content_type, **headers}
    check_headers(headers, request["headers"], script["values"], wrong)
    check_authorization(auth, request, script, wrong)
    params = with_signatures({**expected.get("params", REFRESH), **auth_params(auth, script)}, parts, script)
    in_query = with_signatures(expected.get("query", {}), parts, script)
    if where == "query":
        check_params({**params, **in_query}, query, script, keys, wrong)
    else:
        check_params(params, body, script, keys, wrong)
        check_params(in_query, query, script, keys, wrong)
    return wrong
