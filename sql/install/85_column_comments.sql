------------------------------------------------------------------------------
-- The columns, in the words of \d+. Those that need explaining have theirs beside their table.
------------------------------------------------------------------------------

-- What people look at.
COMMENT ON COLUMN token_status.token_table IS 'the table that the tokens are in: credential, or an attached one';
COMMENT ON COLUMN token_status.row_key IS 'the key of the row as text; of several columns, a JSON array of their texts';
COMMENT ON COLUMN token_status.provider IS 'name of the provider';
COMMENT ON COLUMN token_status.subject IS 'whose tokens they are, as the application calls him';
COMMENT ON COLUMN token_status.label IS 'tells several credentials of one subject apart; empty: there is one';
COMMENT ON COLUMN token_status.status IS 'connected; token_expired: run out, and being tried again; needs_reauth: the provider says that the grant is dead; error: our client is rejected, or what is stored does not open; disconnected: the application says so';
COMMENT ON COLUMN token_status.expires_at IS 'when the access token expires; NULL: not known, or never';
COMMENT ON COLUMN token_status.due_at IS 'when it is refreshed, or tried again; NULL: never, as it is';
COMMENT ON COLUMN token_status.attempts IS 'failures in a row';
COMMENT ON COLUMN token_status.last_error IS 'failure class and reason; NULL after a success';
COMMENT ON COLUMN token_status.last_refreshed_at IS 'when a refresh last succeeded, as far as is known here';
COMMENT ON COLUMN token_status.refresh_count IS 'refreshes that succeeded since the row is known';
COMMENT ON COLUMN token_status.parked IS 'fresh tokens wait for the table to take them; readers get them already';

COMMENT ON COLUMN audit_event.occurred_at IS 'when';
COMMENT ON COLUMN audit_event.event IS 'what: docs/reference.md lists the words';
COMMENT ON COLUMN audit_event.provider IS 'name of the provider';
COMMENT ON COLUMN audit_event.token_table IS 'id in token_table; 1: the built-in table credential';
COMMENT ON COLUMN audit_event.row_key IS 'the row; of API tokens and sessions their id, of signing keys the kid';
COMMENT ON COLUMN audit_event.subject IS 'whose credential; of API tokens the owner, of sessions the account';
COMMENT ON COLUMN audit_event.label IS 'of the credential';
COMMENT ON COLUMN audit_event.failure IS 'failure class, or why a sign-in was refused; NULL: none';
COMMENT ON COLUMN audit_event.message IS 'more about it; what a provider echoes is scrubbed of tokens';
COMMENT ON COLUMN audit_event.actor IS 'user of the session, or refresher';
COMMENT ON COLUMN audit_event.ring IS 'internal: the partition, one a month';

COMMENT ON COLUMN provider_preset.name IS 'for the option preset, or as the name of a provider';
COMMENT ON COLUMN provider_preset.title IS 'whose it is';
COMMENT ON COLUMN provider_preset.options IS 'what a provider made of it begins with; a variable that is null has to be given';
COMMENT ON COLUMN provider_preset.source IS 'the page that the facts come from';

COMMENT ON COLUMN key_usage.place IS 'where the secrets are: a table of the extension, or an attached one';
COMMENT ON COLUMN key_usage.key IS 'name in the key ring; missing key ID: not in the ring; not sealed: something else stands there';
COMMENT ON COLUMN key_usage.current IS 'it is the key that seals';
COMMENT ON COLUMN key_usage.secrets IS 'how many secrets it guards there';

COMMENT ON COLUMN api_token_status.token_id IS 'for revoke_api_token';
COMMENT ON COLUMN api_token_status.owner IS 'whose it is, as the application calls him';
COMMENT ON COLUMN api_token_status.prefix IS 'how it begins';
COMMENT ON COLUMN api_token_status.token_type IS 'the application''s own';
COMMENT ON COLUMN api_token_status.scope IS 'what it is good for';
COMMENT ON COLUMN api_token_status.user_hk IS 'a key of the application, given back by validation';
COMMENT ON COLUMN api_token_status.tenant_hk IS 'another one';
COMMENT ON COLUMN api_token_status.status IS 'active; grace: good until retires_at; ready: made ahead, not handed over yet; replaced: its grace period is over; expired; revoked';
COMMENT ON COLUMN api_token_status.issued_at IS 'when it was issued, or is said to have been';
COMMENT ON COLUMN api_token_status.expires_at IS 'when it ends in any case';
COMMENT ON COLUMN api_token_status.retires_at IS 'the end of its grace period; NULL: no successor has been handed over';
COMMENT ON COLUMN api_token_status.revoked_at IS 'when it was revoked; NULL: it was not';
COMMENT ON COLUMN api_token_status.revoke_reason IS 'by whom, or why';
COMMENT ON COLUMN api_token_status.family IS 'token_id of the first in its line';
COMMENT ON COLUMN api_token_status.predecessor IS 'token_id of the one before it';
COMMENT ON COLUMN api_token_status.successor_id IS 'token_id of the one after it';
COMMENT ON COLUMN api_token_status.last_used_at IS 'written down every token_refresh.api_token_use_interval';
COMMENT ON COLUMN api_token_status.use_count IS 'likewise';
COMMENT ON COLUMN api_token_status.refresh_if_used_within IS 'the batch makes a successor only if it was used within this time; NULL: in any case';
COMMENT ON COLUMN api_token_status.imported IS 'another system has made it, and gave the hash';

COMMENT ON COLUMN session_status.session_id IS 'for start_session_refresh';
COMMENT ON COLUMN session_status.user_id IS 'id of the account: the claim sub, and the subject of its credential';
COMMENT ON COLUMN session_status.provider IS 'where the account has signed in';
COMMENT ON COLUMN session_status.identity_claim IS 'the claim that says who it is: icn or sub';
COMMENT ON COLUMN session_status.identity IS 'the value of that claim';
COMMENT ON COLUMN session_status.jwt_id IS 'for revoke_session: the claim jti';
COMMENT ON COLUMN session_status.status IS 'active, expired or revoked';
COMMENT ON COLUMN session_status.created_at IS 'when it was begun';
COMMENT ON COLUMN session_status.expires_at IS 'when it ends, unless it is refreshed';
COMMENT ON COLUMN session_status.revoked_at IS 'when it was ended; NULL: it was not';
COMMENT ON COLUMN session_status.refreshes IS 'how often it has got another JWT';
COMMENT ON COLUMN session_status.refreshed_at IS 'when it last has';
COMMENT ON COLUMN session_status.device_info IS 'as it was given, without ip';
COMMENT ON COLUMN session_status.ip_hash IS 'what ip_hash() makes of the IP address';

-- Tables that people read.
COMMENT ON COLUMN provider.id IS 'internal: schedule names it so';
COMMENT ON COLUMN provider.name IS 'by which everything else names it';
COMMENT ON COLUMN provider.client_id IS 'how this database is registered there';
COMMENT ON COLUMN provider.client_secret_changed_at IS 'when client_secret was set';
COMMENT ON COLUMN provider.created_at IS 'when it was created';
COMMENT ON COLUMN provider.updated_at IS 'when it was last altered';

COMMENT ON COLUMN credential.id IS 'what store_credential returns; row_key in token_status';
COMMENT ON COLUMN credential.provider IS 'name of the provider';
COMMENT ON COLUMN credential.subject IS 'whose tokens they are, as the application calls him; for row-level security';
COMMENT ON COLUMN credential.label IS 'tells several credentials of one subject apart';
COMMENT ON COLUMN credential.token_type IS 'as the provider says';
COMMENT ON COLUMN credential.scope IS 'as the provider says';
COMMENT ON COLUMN credential.issued_at IS 'when these tokens were given';
COMMENT ON COLUMN credential.expires_at IS 'when the access token expires; NULL: it is taken to last';
COMMENT ON COLUMN credential.refresh_expires_at IS 'when the refresh token does, if the provider tells';
COMMENT ON COLUMN credential.status IS 'set it to disconnected to stop the refreshing, to connected to let it go on; the refresher sets needs_reauth and error';
COMMENT ON COLUMN credential.last_error IS 'why the last refresh failed; NULL after a success';
COMMENT ON COLUMN credential.refreshed_at IS 'when the last refresh succeeded';
COMMENT ON COLUMN credential.created_at IS 'when it was first stored';
COMMENT ON COLUMN credential.updated_at IS 'when it was last written';

COMMENT ON COLUMN token_table.id IS 'what attach_table returns; ciphertexts of the cipher native are bound to it';
COMMENT ON COLUMN token_table.relation IS 'the table';
COMMENT ON COLUMN token_table.key_columns IS 'the key of its rows';
COMMENT ON COLUMN token_table.label IS 'of all rows; NULL: a column says it';
COMMENT ON COLUMN token_table.filter IS 'which rows are served; NULL: all';
COMMENT ON COLUMN token_table.cipher IS 'how its tokens are encrypted';
COMMENT ON COLUMN token_table.cipher_key IS 'name of a key in the key ring';
COMMENT ON COLUMN token_table.decrypt_function IS 'of the owner, with its schema';
COMMENT ON COLUMN token_table.encrypt_function IS 'likewise';
COMMENT ON COLUMN token_table.result_values IS 'the texts for a success and a failure';
COMMENT ON COLUMN token_table.time_zone IS 'what timestamps without time zone mean';
COMMENT ON COLUMN token_table.has_trigger IS 'a trigger tells what changes in it; false: it is polled';
COMMENT ON COLUMN token_table.poll_interval IS 'how often it is compared with the schedule; NULL: see the settings';
COMMENT ON COLUMN token_table.refresh_margin IS 'how long before the expiry to refresh; NULL: as the provider has it';
COMMENT ON COLUMN token_table.attached_at IS 'when it was attached';
COMMENT ON COLUMN token_table.attached_by IS 'user of the session that attached it';

COMMENT ON COLUMN schedule.id IS 'stays when the key of the row changes';
COMMENT ON COLUMN schedule.token_table IS 'id in token_table';
COMMENT ON COLUMN schedule.status IS 'as in token_status, which adds what only the time and the table tell';
COMMENT ON COLUMN schedule.expires_at IS 'when the access token expires';
COMMENT ON COLUMN schedule.attempts IS 'failures in a row';
COMMENT ON COLUMN schedule.failure IS 'class of the last one; NULL after a success';
COMMENT ON COLUMN schedule.message IS 'what it was';
COMMENT ON COLUMN schedule.refresh_count IS 'successes since the row is known';
COMMENT ON COLUMN schedule.last_refreshed_at IS 'the last one';
COMMENT ON COLUMN schedule.label IS 'as the row of an attached table has it; NULL: see credential, or token_table';

COMMENT ON COLUMN parked_result.token_table IS 'id in token_table; 0: they belong to no row that is known';
COMMENT ON COLUMN parked_result.replaces_refresh_token IS 'sealed; the one that was presented: it is not presented again';
COMMENT ON COLUMN parked_result.refresh_token IS 'sealed; NULL: that in the row stays';
COMMENT ON COLUMN parked_result.token_type IS 'as the provider says';
COMMENT ON COLUMN parked_result.scope IS 'as the provider says';
COMMENT ON COLUMN parked_result.issued_at IS 'when these tokens were given';
COMMENT ON COLUMN parked_result.expires_at IS 'when the access token expires';
COMMENT ON COLUMN parked_result.refresh_expires_at IS 'when the refresh token does, if the provider tells';
COMMENT ON COLUMN parked_result.reason IS 'what the table said: SQLSTATE, and as much as holds nothing of a row';
COMMENT ON COLUMN parked_result.attempts IS 'how often it was asked';
COMMENT ON COLUMN parked_result.parked_at IS 'when it first said no';
COMMENT ON COLUMN parked_result.subject IS 'see provider';
COMMENT ON COLUMN parked_result.label IS 'see provider';
COMMENT ON COLUMN parked_result.client_id IS 'without a row: the client that these tokens were given to; NULL: the provider''s';
COMMENT ON COLUMN parked_result.client_secret IS 'sealed; of client_id';

COMMENT ON COLUMN api_token.id IS 'token_id elsewhere';
COMMENT ON COLUMN api_token.expires_at IS 'when it ends in any case';
COMMENT ON COLUMN api_token.revoked_at IS 'when it was revoked; NULL: it was not';
COMMENT ON COLUMN api_token.successor_id IS 'the token after it, which may not have been handed over yet';
COMMENT ON COLUMN api_token.scope IS 'what it is good for';
COMMENT ON COLUMN api_token.user_hk IS 'a key of the application, given back by validation';
COMMENT ON COLUMN api_token.tenant_hk IS 'another one';
COMMENT ON COLUMN api_token.predecessor IS 'the token before it';
COMMENT ON COLUMN api_token.owner IS 'whose it is, as the application calls him';
COMMENT ON COLUMN api_token.prefix IS 'how it begins';
COMMENT ON COLUMN api_token.token_type IS 'the application''s own';
COMMENT ON COLUMN api_token.issued_at IS 'when it was issued, or is said to have been';
COMMENT ON COLUMN api_token.imported IS 'another system has made it, and gave the hash';
COMMENT ON COLUMN api_token.revoke_reason IS 'by whom, or why';
COMMENT ON COLUMN api_token_use.token_id IS 'id of the token';
COMMENT ON COLUMN api_token_use.last_used_at IS 'when a validation last found it good';
COMMENT ON COLUMN api_token_use.use_count IS 'how often';
COMMENT ON COLUMN imported_token_prefix.prefix IS 'delete it, and what begins so is refused without a look-up';

COMMENT ON COLUMN signing_key.kid IS 'its name in the header of JWTs and in the JWKS';
COMMENT ON COLUMN signing_key.algorithm IS 'the only one that a JWT with this kid may have';
COMMENT ON COLUMN signing_key.created_at IS 'the newest signs';
COMMENT ON COLUMN signing_key.retired_at IS 'since when it signs no more; NULL: it may';
COMMENT ON COLUMN session_secret.purpose IS 'what it is behind: ip_hash, refresh_token';
COMMENT ON COLUMN session_secret.secret IS 'sealed';
COMMENT ON COLUMN account.id IS 'the claim sub, and the subject of its credential';
COMMENT ON COLUMN account.provider IS 'where it signs in';
COMMENT ON COLUMN account.created_at IS 'of the first sign-in';
COMMENT ON COLUMN account.last_login_at IS 'of the last one';
COMMENT ON COLUMN session.id IS 'session_id elsewhere';
COMMENT ON COLUMN session.account IS 'whose it is';
COMMENT ON COLUMN session.expires_at IS 'when it ends, unless it is refreshed';
COMMENT ON COLUMN session.revoked_at IS 'when it was ended; NULL: it was not';
COMMENT ON COLUMN session.created_at IS 'when it was begun';
COMMENT ON COLUMN session.refreshed_at IS 'when it last got another JWT';

COMMENT ON COLUMN authorization_request.id IS 'internal';
COMMENT ON COLUMN authorization_request.provider IS 'name of the provider';
COMMENT ON COLUMN authorization_request.subject IS 'whose the credential will be; NULL: of the account of whoever signs in';
COMMENT ON COLUMN authorization_request.label IS 'of the credential';
COMMENT ON COLUMN authorization_request.redirect_uri IS 'where the browser comes back to';
COMMENT ON COLUMN authorization_request.sends_verifier IS 'false: PKCE is switched off';
COMMENT ON COLUMN authorization_request.max_age IS 'seconds; how long ago the user may have signed in there; NULL: no matter';
COMMENT ON COLUMN authorization_request.created_at IS 'when it was begun';
COMMENT ON COLUMN authorization_request.expires_at IS 'until when the browser may come back';
COMMENT ON COLUMN authorization_request.message IS 'more about the failure';
COMMENT ON COLUMN authorization_request.credential_id IS 'id in credential, when it went well';
COMMENT ON COLUMN authorization_request.claims IS 'who has signed in, when it went well';

COMMENT ON COLUMN revocation.id IS 'internal';
COMMENT ON COLUMN revocation.provider IS 'name of the provider';
COMMENT ON COLUMN revocation.subject IS 'whose token it was';
COMMENT ON COLUMN revocation.label IS 'of the credential that it was in';
COMMENT ON COLUMN revocation.sealed_table IS 'the place that the envelope is bound to: the table';
COMMENT ON COLUMN revocation.sealed_row IS 'and the row';
COMMENT ON COLUMN revocation.token_type_hint IS 'refresh_token or access_token';
COMMENT ON COLUMN revocation.attempts IS 'how often the provider was told in vain';
COMMENT ON COLUMN revocation.due_at IS 'when it is told again';
COMMENT ON COLUMN revocation.give_up_at IS 'until when';
COMMENT ON COLUMN revocation.client_secret IS 'sealed; of client_id';

-- Of the refresher alone.
COMMENT ON COLUMN discovery.id IS 'which call of discover_provider it is for';
COMMENT ON COLUMN discovery.issuer IS 'who was asked';
COMMENT ON COLUMN discovery.options IS 'what was found; NULL: nothing';
COMMENT ON COLUMN discovery.message IS 'why nothing was found';
COMMENT ON COLUMN discovery.answered_at IS 'when';
COMMENT ON COLUMN former_token_table.relation IS 'the table';
COMMENT ON COLUMN former_token_table.id IS 'the id that it gets when it is attached again';
COMMENT ON COLUMN in_flight.id IS 'one claim';
COMMENT ON COLUMN in_flight.schedule_ids IS 'what is being asked for';
COMMENT ON COLUMN in_flight.claimed_at IS 'since when';
COMMENT ON COLUMN control.singleton IS 'there is one row';
COMMENT ON COLUMN control.paused IS 'nothing is refreshed in the background';
COMMENT ON COLUMN control.changed_at IS 'since when';
COMMENT ON COLUMN control.changed_by IS 'user of the session that has paused or resumed';
