"""How the demo shows the credentials: a table redrawn in place on a terminal, else a line now and then."""

import collections
import os
import shutil
import time

LINE_INTERVAL = 4  # seconds
COLOURS = {"connected": "32", "token_expired": "33", "needs_reauth": "31", "error": "31"}


class TableScreen:
    def __init__(self):
        self.lines_drawn = 0
        self.coloured = "NO_COLOR" not in os.environ

    def colour(self, text, code):
        return f"\033[{code}m{text}\033[0m" if self.coloured else text

    def show(self, headline, rows):
        width = shutil.get_terminal_size().columns
        lines = ["", self.colour(headline[:width], "1"), "",
                 f"{'provider':<10}{'subject':<10}{'status':<15}{'expires in':>10}{'refreshes':>11}  last error"[:width]]
        for row in rows:
            expires_in = "" if row["expires_in"] is None else f"{max(row['expires_in'], 0):.0f} s"
            status = f"{row['status']:<15}"
            error = (row["last_error"] or "") if row["attempts"] else ""
            lines.append(f"{row['provider']:<10}{row['subject']:<10}{self.colour(status, COLOURS.get(row['status'], '0'))}"
                         f"{expires_in:>10}{row['refresh_count']:>11}  {error[:max(width - 58, 0)]}")
        up = f"\033[{self.lines_drawn}A" if self.lines_drawn else ""
        print(up + "\n".join(f"{line}\033[K" for line in lines) + "\n\033[J", end="", flush=True)
        self.lines_drawn = len(lines)


class LinePrinter:
    """Prints a line every few seconds, and whenever a status has changed."""

    def __init__(self):
        self.headline = None
        self.states = None
        self.started_at = time.monotonic()
        self.next_line_at = 0

    def show(self, headline, rows):
        by_provider = collections.defaultdict(collections.Counter)
        for row in rows:
            by_provider[row["provider"]][row["status"]] += 1
        states = "   ".join(f"{provider}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
                            for provider, counts in sorted(by_provider.items()))
        now = time.monotonic()
        if headline != self.headline:
            print(headline)
        elif states == self.states and now < self.next_line_at:
            return
        self.headline, self.states, self.next_line_at = headline, states, now + LINE_INTERVAL - 0.5
        print(f"{now - self.started_at:5.0f} s  {states}   {sum(row['refresh_count'] for row in rows)} refreshes")
