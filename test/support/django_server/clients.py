"""Registers the clients of a test and tells what has become of their tokens."""

from oauth2_provider.models import get_application_model, get_refresh_token_model


def seed(clients):
    """clients: a list of {client_id, client_secret (left out: a public client), grant_type, redirect_uris}."""
    for client in clients:
        get_application_model().objects.create(
            name=client["client_id"],
            client_id=client["client_id"],
            client_secret=client.get("client_secret", ""),
            client_type="confidential" if "client_secret" in client else "public",
            authorization_grant_type=client.get("grant_type", "authorization-code"),
            redirect_uris=client.get("redirect_uris", ""),
            skip_authorization=True,
        )


def refresh_tokens(username):
    """All that a user's clients were ever given, the oldest first."""
    rows = get_refresh_token_model().objects.filter(user__username=username).select_related("access_token")
    return [
        {
            "refresh_token": row.token,
            "revoked": row.revoked is not None,
            "access_token": row.access_token and row.access_token.token,
        }
        for row in rows.order_by("id")
    ]
