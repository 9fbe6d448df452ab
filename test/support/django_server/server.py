"""An authorization server on loopback: Django OAuth Toolkit, with an empty database at each start.

usage: server.py --config FILE --port-file FILE
Runs until its standard input is closed. The configuration is a JSON object:
  database      path of the SQLite file to be made
  clients       see clients.py
  realms        see realms.py
  certificate, key    PEM files: https is spoken, too, at a port of its own
"""

import argparse
import json
import os
import ssl
import sys
import threading

sys.dont_write_bytecode = True


class Server:
    """Django's own development server on a free port; with a context for TLS the handshake is made in the connection's thread."""

    def __init__(self, application, context=None):
        from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

        class Handler(WSGIRequestHandler):
            def get_environ(self):
                return {**super().get_environ(), "test.connection": self.connection}

            def log_message(self, *args):
                pass

        class Listener(ThreadedWSGIServer):
            def finish_request(self, request, client_address):
                if context is None:
                    return super().finish_request(request, client_address)
                try:
                    secured = context.wrap_socket(request, server_side=True)
                except (ssl.SSLError, ConnectionError):
                    application.stats["tls_errors"] += 1
                    return None
                with secured:
                    return super().finish_request(secured, client_address)

        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.listener.daemon_threads = True
        self.listener.set_app(application)
        self.port = self.listener.server_port
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--port-file", required=True)
    arguments = parser.parse_args()
    with open(arguments.config, encoding="utf-8") as file:
        config = json.load(file)
    os.environ["DJANGO_DATABASE"] = config["database"]
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

    import django

    django.setup()
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    import clients
    import realms

    call_command("migrate", run_syncdb=True, verbosity=0)
    clients.seed(config["clients"])
    application = realms.Realms(get_wsgi_application(), config["realms"])
    if "certificate" in config:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(config["certificate"], config["key"])
        application.tls_port = Server(application, context).port
    port = Server(application).port
    with open(arguments.port_file + ".new", "w", encoding="ascii") as file:
        file.write(f"{port}\n")
    os.rename(arguments.port_file + ".new", arguments.port_file)
    sys.stdin.read()


main()
