"""Who signs in: whoever the header X-Test-User names. Such users are made when they are first seen."""

from django.contrib.auth.middleware import RemoteUserMiddleware


class TestUserMiddleware(RemoteUserMiddleware):
    header = "HTTP_X_TEST_USER"
