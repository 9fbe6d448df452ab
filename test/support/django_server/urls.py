"""The toolkit's own endpoints: o/authorize/, o/token/, o/revoke_token/, o/introspect/."""

from django.urls import include, path

urlpatterns = [path("o/", include("oauth2_provider.urls", namespace="oauth2_provider"))]
