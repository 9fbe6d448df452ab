# The dialects of providers: every row of test/conformance/cases.json, end to end, through the refresher into the table.
#
# While refreshing is paused, each credential is refreshed once on demand and looked at, then once more, which shows which refresh
# token is stored. The rows that have to wait are asked again after a restart, with which the refresher forgets such waits.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use DialectTest;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
make_keys($dir);
make_certificates($dir);
my $server = start_dialect_server($dir);
my $node   = new_node('main', 'log_min_messages' => 'warning');
my @cases  = read_cases();
my @alive  = grep { !$_->{refused} } @cases;

sub url_of { return $_[0]{tls} ? $server->{tls_url} : $server->url; }

# Lines of JSON.
sub rows
{
    my ($sql) = @_;
    my $json = JSON::PP->new->utf8->allow_nonref;
    return map { $json->decode($_) } split /\n/, $node->safe_psql('postgres', $sql);
}

sub send_scripts
{
    my ($round) = @_;
    $server->call(POST => '/test/cases', { map { $_->{name} => case_script($_, url_of($_), $dir, $round) } @alive });
    return;
}

sub records { return $server->call(GET => '/test/records'); }

# By provider: what refresh_credential says.
sub refresh
{
    my (@names) = @_;
    my $names = join(', ', map { literal($_) } @names);
    return map { $_->{name} => $_ } rows(<<"END");
SELECT json_build_object('name', n, 'success', r.success, 'failure', coalesce(r.failure, ''), 'message', coalesce(r.message, ''))
FROM unnest(ARRAY[$names]::text[]) n, token_refresh.refresh_credential(n, 'subject') r
END
}

# ---- providers and credentials

$node->safe_psql('postgres', <<'END');
SELECT token_refresh.pause();
CREATE FUNCTION refusal(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE statement;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' ', SQLSTATE, SQLERRM, hint);
END $$;
END
my (%refusal, @made);
{
    my (@wanted, $sql);
    for my $case (@cases)
    {
        my $statements = case_statements($case, url_of($case), $dir);
        for my $step ('create', $case->{refused} ? () : ('alter', 'store'))
        {
            next unless $statements->{$step};
            push @wanted, sprintf('(%d, %s, %s)', scalar @wanted, literal($case->{name}), literal($statements->{$step}));
        }
    }
    for my $row (rows('SELECT json_build_array(name, refusal(statement)) FROM (VALUES ' . join(",\n", @wanted) . ') v (n, name, statement) ORDER BY n'))
    {
        $refusal{ $row->[0] } //= $row->[1];
    }
}
@alive = grep { !defined $refusal{ $_->{name} } } @alive;

# ---- the refresh

send_scripts(1);
my %result  = refresh(map { $_->{name} } @alive);
my $records = records();

my %row = map { $_->{name} => $_ } rows(<<'END');
SELECT json_build_object('name', c.provider, 'status', s.status, 'token_type', c.token_type, 'scope', c.scope, 'captured', c.captured,
    'expires_in', extract(epoch FROM s.expires_at - now())::bigint, 'refresh_expires_in', extract(epoch FROM c.refresh_expires_at - now())::bigint,
    'due', extract(epoch FROM s.due_at - coalesce(e.last_at, now()))::bigint,
    'events', e.events, 'warning', e.message,
    'access_token', CASE WHEN s.expires_at > now() + interval '1 second' THEN token_refresh.get_access_token(c.provider, c.subject) END,
    'secondary', (SELECT coalesce(json_object_agg(o.label, token_refresh.get_access_token(o.provider, o.subject, o.label)), '{}')
                  FROM token_refresh.credential o WHERE o.provider = c.provider AND o.label <> ''))
FROM token_refresh.credential c
JOIN token_refresh.token_status s ON (s.provider, s.subject, s.label) = (c.provider, c.subject, c.label)
LEFT JOIN LATERAL (SELECT json_agg(concat_ws('/', a.event, a.failure) ORDER BY a.occurred_at) AS events, max(a.occurred_at) AS last_at,
                          coalesce(string_agg(a.message, '; ') FILTER (WHERE a.event = 'refreshed'), '') AS message
                   FROM token_refresh.audit_event a
                   WHERE a.provider = c.provider AND a.subject = c.subject AND a.label = '' AND a.event NOT IN ('credential_stored')) e ON true
WHERE c.label = ''
END
my $asked_by_reading = records();

send_scripts(2);
my %later = map { $_->{name} => 1 } grep { DialectTest::expected_of($_)->{again} =~ /^(later|held)$/ } @alive;
my %again = refresh(grep { !$later{$_} } map { $_->{name} } @alive);
my @held  = grep { DialectTest::expected_of($_)->{again} eq 'held' } @alive;
my %held  = @held ? refresh(map { $_->{name} } @held) : ();
my $records_again = records();

# ---- the comparison

for my $case (@cases)
{
    my $name = $case->{name};
    local our $TODO = $case->{unsupported};
    if ($case->{refused})
    {
        like($refusal{$name} // 'it is taken', qr/$case->{refused}/, $name);
        next;
    }
    my @wrong;
    if (defined $refusal{$name})
    {
        @wrong = ("it is refused: $refusal{$name}");
    }
    else
    {
        my $row = $row{$name} // {};
        my %got = (%$row, failure => $result{$name}{failure}, message => $result{$name}{message}, requests => $records->{$name}, requests_again => $records_again->{$name});
        @wrong = compare_case($case, url_of($case), $dir, \%got);
        push @wrong, 'reading it made a request' if @{ $asked_by_reading->{$name} } != @{ $records->{$name} };
        push @wrong, "the second refresh: $again{$name}{failure} $again{$name}{message}" if DialectTest::expected_of($case)->{again} eq 'reauth' && $again{$name}{failure} ne 'reauth';
        push @wrong, "within the minimum interval: $held{$name}{failure}" if $held{$name} && $held{$name}{failure} ne 'too_early';
    }
    ok(!@wrong, "$name ($case->{source})") or diag(join("\n", "$name:", map { "  $_" } @wrong));
}

# ---- those that had to wait have lost nothing

subtest 'after the waits, the token that is stored is presented' => sub {
    my @waited = grep { DialectTest::expected_of($_)->{again} eq 'later' } @alive;
    $node->restart;
    for my $case (@waited)
    {
        my $script = case_script($case, url_of($case), $dir, 2);
        $script->{exchanges} = [{ request => $case->{exchanges}[-1]{request}, answer => { status => 503 } }];
        $server->call(POST => '/test/cases', { $case->{name} => $script });
    }
    refresh(map { $_->{name} } @waited);
    my $found = records();
    is_deeply($found->{ $_->{name} }, [[]], $_->{name}) for @waited;
};

# ---- the other tokens of an answer

subtest 'a secondary credential presents its own refresh token' => sub {
    for my $case (grep { DialectTest::expected_of($_)->{secondary}{user} } @alive)
    {
        my $name   = $case->{name};
        my $script = case_script($case, url_of($case), $dir, 1);
        $script->{values}{presented} = $script->{values}{user_refresh};
        $script->{exchanges} = [{ request => $case->{exchanges}[-1]{request}, answer => { body => { access_token => 'fake-second', refresh_token => 'fake-third', expires_in => 7200 } } }];
        $server->call(POST => '/test/cases', { $name => $script });
        is($node->safe_psql('postgres', "SELECT success, token_refresh.get_access_token('$name', 'subject') = 'fake-second' FROM token_refresh.refresh_credential('$name', 'subject', 'user')"),
            't|f', "$name: it is refreshed, and the first one is not touched");
        is_deeply(records()->{$name}, [[]], "$name: as expected");
        is($node->safe_psql('postgres', "SELECT token_refresh.get_access_token('$name', 'subject', 'user')"), 'fake-second', "$name: the new token is stored");
    }
};

# ---- from one provider to another

subtest 'Instagram: the token of a sign-in becomes a long-lived one, as docs/providers.md says' => sub {
    my ($snippet) = slurp_file("$FindBin::Bin/../../docs/providers.md") =~ /^```sql\n(.*?instagram-exchange.*?)^```/ms;
    my $url = $server->url . '/instagram-exchange';
    $node->safe_psql('postgres', <<"END");
SELECT token_refresh.create_provider('instagram-exchange', 'id', 'obviously-fake-secret',
    '{"preset": "instagram-exchange", "token_endpoint": "$url/code", "refresh_endpoint": "$url/access_token"}');
SELECT token_refresh.create_provider('instagram', 'id', NULL, '{"preset": "instagram", "token_endpoint": "$url/none", "refresh_endpoint": "$url/none"}');
SELECT token_refresh.store_credential('instagram-exchange', 'user-7', '{"access_token": "fake-short", "expires_in": 3600}');
END
    my %params = (grant_type => 'ig_exchange_token', access_token => 'fake-short', client_secret => 'obviously-fake-secret');
    $server->call(POST => '/test/cases', { 'instagram-exchange' => {
        client_id => 'id', client_secret => 'obviously-fake-secret', values => {}, exchanges => [{
            request => { method => 'GET', path => '/access_token', format => 'query', auth => 'absent', params => \%params },
            answer  => { body => { access_token => 'fake-long', token_type => 'bearer', expires_in => 5183944 } } }] } });
    $node->safe_psql('postgres', $snippet);
    is_deeply(records()->{'instagram-exchange'}, [[]], 'it is exchanged once, with the secret');
    is($node->safe_psql('postgres', q{SELECT token_refresh.get_access_token('instagram', 'user-7'),
            expires_at BETWEEN now() + interval '59 days' AND now() + interval '60 days', due_at < now() + interval '41 days'
            FROM token_refresh.token_status WHERE provider = 'instagram'}),
        'fake-long|t|t', 'the other provider has it, and renews it in time');
    is($node->safe_psql('postgres', q{SELECT token_refresh.get_access_token('instagram-exchange', 'user-7') IS NULL}), 't', 'the first one has forgotten it');
};

# ---- the catalogue

# What a registration has to add to a preset: values for its variables, a key, a certificate.
sub registration
{
    my ($options) = @_;
    my %own;
    my ($host) = @{ $options->{allowed_hosts} // ['x.example.com'] };
    $host =~ s/^\*/x/;
    my %value = (domain => $host, host => $host, landscape => 'eu10.hana.ondemand.com', redirect_uri => 'https://app.example/back');
    my $variables = $options->{variables};
    $own{variables} = { map { $_ => $variables->{$_} // $value{$_} // 'x' } keys %$variables } if $variables;
    $own{allowed_hosts} = [$host] if exists(($variables // {})->{host}) && !$options->{allowed_hosts};
    my $method = $options->{token_endpoint_auth_method} // '';
    %own = (%own, client_certificate => "$dir/client.crt", client_key => "$dir/client.key") if $method eq 'tls_client_auth';
    my $secret = ($options->{grant_type} // '') =~ /jwt-bearer/ ? slurp_file("$dir/rsa.pem") : $method =~ /^none|tls_/ && !$options->{request_signature} ? undef : 'obviously-fake-secret';
    return ($secret, \%own);
}

subtest 'a provider can be made of every preset' => sub {
    for my $preset (rows('SELECT json_build_array(name, options) FROM token_refresh.provider_preset ORDER BY name'))
    {
        my ($name, $options) = @$preset;
        my ($secret, $own) = registration($options);
        my $create = sprintf('SELECT token_refresh.create_provider(%s, %s, %s, %s)', map { literal($_) } "catalogue-$name", 'id', $secret, json({ preset => $name, %$own }));
        is($node->safe_psql('postgres', 'SELECT refusal(' . literal($create) . ')'), '', $name);
    }
};

is($node->safe_psql('postgres', "SELECT count(*) FROM token_refresh.audit_event WHERE message ~ 'fake-[a-z_]+-of-|obviously-fake'"), '0', 'no message holds a secret');

$node->stop;
done_testing();
