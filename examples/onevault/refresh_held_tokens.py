"""usage: refresh_held_tokens.py FILE        the database: PGHOST, PGUSER, PGDATABASE, ... as for psql

For a client that keeps tokens and seldom uses them: looks at each token in FILE (JSON: {name: token}), refreshes those
of which the database recommends it, and replaces them in FILE. To be run by cron, daily or more often: a token that
lives for a few days is recommended in its last day only.
"""

import json
import os
import sys
import tempfile

import psycopg


def look_at(connection, token):
    """Whether to refresh it, and a word about it."""
    status = "SELECT is_valid, refresh_recommended, message FROM auth.get_token_refresh_status(%s)"
    is_valid, recommended, message = connection.execute(status, (token,)).fetchone()
    return is_valid and recommended, message


def refreshed(connection, token):
    """The token to be kept from now on, and a word about it."""
    refresh = "SELECT success, new_token, refresh_reason, message FROM auth.refresh_production_token_enhanced(%s)"
    success, new_token, reason, message = connection.execute(refresh, (token,)).fetchone()
    return (new_token, reason) if success and new_token else (token, message)


def write(path, tokens):
    """All of it, or nothing; readable for the owner alone."""
    handle, name = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)))
    try:
        with open(handle, "w") as file:
            json.dump(tokens, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def main(path):
    with open(path) as file:
        tokens = json.load(file)
    with psycopg.connect("", autocommit=True) as connection:
        for name in sorted(tokens):
            due, word = look_at(connection, tokens[name])
            if due:
                # What cannot be written down is not asked for: the old one is good for the grace period only.
                write(path, tokens)
                tokens[name], word = refreshed(connection, tokens[name])
                write(path, tokens)
            print(f"{name}: {word}")


if __name__ == "__main__":
    main(sys.argv[1])
