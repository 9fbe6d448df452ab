# Django OAuth Toolkit of the distribution: sign-in by code, then every client authentication that it supports, over http and over
# https with a private CA; refresh tokens that rotate, that rotate with a grace period, and that stay; answers that are lost on the
# way; what it must refuse; introspection and revocation as the server tells it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use DialectTest;
use PostgreSQL::Test::Utils;
use RealServerTest;
use Test::More;
use TokenRefreshTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
make_certificates($dir);

# Settings of the toolkit, by the first part of the path.
my %realms = (
    rotating => {},
    grace    => { REFRESH_TOKEN_GRACE_PERIOD_SECONDS => 600 },
    keeping  => { ROTATE_REFRESH_TOKEN => JSON::PP::false },
    guarded  => { REFRESH_TOKEN_REUSE_PROTECTION => JSON::PP::true },
);

# ---- the table
#
# name            of client, provider, subject and user
# method          token_endpoint_auth_method; none: a public client
# realm           see above; left out: rotating
# tls             https, with the CA that has signed the server's certificate
# client_id, client_secret    other ones than usual
# options         what create_provider is told besides
# altered         what alter_provider is told after the sign-in, one after the other
# scope           that the tokens have; left out: all
# lost            after the sign-in an answer is lost: "all" of it, or "half"; dead: the grant is dead then
# failure, message            it must not work, and why
# unsent          it fails before anything is sent
my $basic   = 'client_secret_basic';
my $post    = 'client_secret_post';
my $refused = qr/invalid_client/;
my @odd     = (client_secret => q{all sorts: +%2B&=:/?#'"\\~ of it} . new_secret());
my $overlap = sub { return [ map { { client_secret => new_secret() } } 1 .. $_[0] ]; };
my $window  = { replay_window => '2 minutes' };
my @cases = (
    { name => 'basic',         method => $basic },
    { name => 'basic-odd',     method => $basic, @odd, client_id => q{odd:client &+%41=/?} },
    { name => 'basic-tls',     method => $basic, tls => 1 },
    { name => 'basic-grace',   method => $basic, realm => 'grace', options => $window },
    { name => 'basic-kept',    method => $basic, realm => 'keeping' },
    { name => 'basic-overlap', method => $basic, altered => $overlap->(1) },
    { name => 'basic-scope',   method => $basic, options => { scope => 'read' }, scope => 'read' },
    { name => 'basic-guarded', method => $basic, realm => 'guarded' },
    { name => 'post',          method => $post },
    { name => 'post-odd',      method => $post, @odd, client_id => q{odd:client &+%42=/?} },
    { name => 'post-tls',      method => $post, tls => 1, realm => 'grace', options => $window },
    { name => 'post-kept',     method => $post, tls => 1, realm => 'keeping' },
    { name => 'post-overlap',  method => $post, altered => $overlap->(1) },
    { name => 'public',        method => 'none' },
    { name => 'public-tls',    method => 'none', tls => 1 },
    { name => 'public-grace',  method => 'none', realm => 'grace', options => $window },
    { name => 'public-kept',   method => 'none', realm => 'keeping' },

    { name => 'own-basic', method => $basic, options => { grant_type => 'client_credentials' } },
    { name => 'own-post',  method => $post, options => { grant_type => 'client_credentials', scope => 'write' }, scope => 'write' },
    { name => 'own-tls',   method => $basic, tls => 1, options => { grant_type => 'client_credentials' } },

    { name => 'wrong-basic',     method => $basic, altered => $overlap->(2), failure => 'client_config', message => $refused },
    { name => 'wrong-post',      method => $post, altered => $overlap->(2), failure => 'client_config', message => $refused },
    { name => 'no-secret',       method => $basic, altered => [{ token_endpoint_auth_method => 'none', client_secret => undef }], failure => 'client_config', message => $refused },
    { name => 'wrong-client',    method => $basic, altered => [{ client_id => 'nobody' }], failure => 'client_config', message => $refused },
    { name => 'without-ca-file', method => $basic, tls => 1, altered => [{ ca_file => undef }], failure => 'transient', message => qr/certificate/i, unsent => 1 },
    { name => 'other-ca-file',   method => $post, tls => 1, altered => [{ ca_file => "$dir/self_signed.crt" }], failure => 'transient', message => qr/certificate/i, unsent => 1 },

    { name => 'lost-grace',         method => $basic, lost => 'all', realm => 'grace', options => $window },
    { name => 'lost-grace-half',    method => 'none', lost => 'half', realm => 'grace', options => $window },
    { name => 'lost-grace-tls',     method => $post, lost => 'half', realm => 'grace', options => $window, tls => 1 },
    { name => 'lost-kept',          method => $basic, lost => 'all', realm => 'keeping' },
    { name => 'lost-kept-half',     method => $basic, lost => 'half', realm => 'keeping' },
    { name => 'lost-rotating',      method => $basic, lost => 'all', dead => 1 },
    { name => 'lost-rotating-half', method => $post, lost => 'half', dead => 1 },
);

# ---- what the two sides are told

my $redirect = 'https://app.example.com/callback';
my $asker    = { client_id => 'asker', client_secret => new_secret(), redirect_uris => $redirect };
my %secrets  = ($asker->{client_secret} => 1);

for my $case (@cases)
{
    $case->{$_} //= {} for qw(options);
    $case->{altered} //= [];
    $case->{client_id} //= $case->{name};
    $case->{realm}     //= 'rotating';
    $case->{scope}     //= 'read write';
    $case->{own} = ($case->{options}{grant_type} // '') eq 'client_credentials';
    $case->{client_secret} //= new_secret() if $case->{method} ne 'none';
    $secrets{$_} = 1 for grep { defined } map { $_->{client_secret} } $case, @{ $case->{altered} };
}

sub registration
{
    my ($case) = @_;
    return {
        client_id => $case->{client_id},
        defined $case->{client_secret} ? (client_secret => $case->{client_secret}) : (),
        $case->{own} ? (grant_type => 'client-credentials') : (redirect_uris => $redirect)
    };
}

my $server = start_django_server(clients => [ $asker, map { registration($_) } @cases ], realms => \%realms,
    certificate => "$dir/server.crt", key => "$dir/server.key");
my $node = new_node('main');
note("Django OAuth Toolkit $server->{about}{version}");
unless ($server->knows('REFRESH_TOKEN_REUSE_PROTECTION'))
{
    note('this version has no REFRESH_TOKEN_REUSE_PROTECTION');
    @cases = grep { $_->{realm} ne 'guarded' } @cases;
}

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub endpoint { my ($case, $name, $tls) = @_; return ($tls ? $server->{tls_url} : $server->url) . "/$case->{realm}/o/$name/"; }

sub told { my ($case, $token) = @_; return introspect(endpoint($case, 'introspect'), $asker, $token); }

# As a client of that name would present it.
sub present
{
    my ($case, $refresh_token) = @_;
    my %form = (grant_type => 'refresh_token', refresh_token => $refresh_token);
    return post_form(endpoint($case, 'token'), $case->{method} eq 'none' ? { %form, client_id => $case->{client_id} } : \%form, $case->{method} eq 'none' ? undef : $case);
}

sub stored_token { my ($case) = @_; return access_token($node, ($case->{name}) x 2); }

sub set_up
{
    my ($case) = @_;
    my $name = $case->{name};
    create_provider($node, $name, client_id => $case->{client_id}, client_secret => $case->{client_secret}, token_endpoint_auth_method => $case->{method},
        $case->{tls} ? (ca_file => "$dir/ca.crt") : (), authorization_endpoint => endpoint($case, 'authorize'), token_endpoint => endpoint($case, 'token', $case->{tls}),
        revocation_endpoint => endpoint($case, 'revoke_token', $case->{tls}), introspection_endpoint => endpoint($case, 'introspect', $case->{tls}), %{ $case->{options} });
    if ($case->{own}) { sql("SELECT token_refresh.store_credential('$name', '$name', '{}')"); }
    else              { connect_by_code($node, $name, sub { $server->visit($name, @_) }, redirect_uri => $redirect); }
    sql(sprintf('SELECT token_refresh.alter_provider(%s, %s)', literal($name), literal(json($_)))) for @{ $case->{altered} };
    return;
}

set_up($_) for @cases;
poll_until($node, sprintf('SELECT count(*) = %d FROM token_refresh.token_status WHERE expires_at > now()', scalar @cases), 'all have a token');

# ---- those that must work

my @working = grep { !$_->{failure} && !$_->{lost} } @cases;
my %last;
for my $case (@working)
{
    my $name = $case->{name};
    subtest $name => sub {
        my $first = stored_token($case);
        is_deeply([ @{ refresh($node, $name) }{qw(success failure)} ], [ JSON::PP::true, undef ], 'refreshed') for 1 .. 2;
        is(events_of($node, $name), join(' ', ('refreshed') x ($case->{own} ? 3 : 2)), 'nothing else has happened');
        my $token = $last{$name} = stored_token($case);
        $secrets{$_} = 1 for $first, $token;
        isnt($token, $first, 'there is a new access token');
        my $answer = told($case, $token);
        ok($answer->{active}, 'the one in the table is active, says the server');
        is_deeply([ @$answer{qw(client_id username scope)} ], [ $case->{client_id}, $case->{own} ? undef : $name, $case->{scope} ], '... and whose it is');
        cmp_ok(abs($answer->{exp} - sql("SELECT extract(epoch FROM expires_at)::bigint FROM token_refresh.token_status WHERE provider = '$name'")), '<=', 10,
            '... and ends when we think it does');
        ok(!told($case, $first)->{active}, 'the first one is not') unless $case->{own};
        my @known = $server->refresh_tokens($name);
        $secrets{ $_->{refresh_token} } = 1 for @known;
        return is(scalar @known, 0, 'there are no refresh tokens') if $case->{own};
        is_deeply([ map { $_->{revoked} ? 'used up' : 'good' } @known ], $case->{realm} eq 'keeping' ? ['good'] : [ 'used up', 'used up', 'good' ], 'the refresh tokens that there are');
        is($known[-1]{access_token}, $token, 'the good one came with our access token');
        return if $case->{realm} eq 'keeping';

        my ($status, $again) = present($case, $known[-2]{refresh_token});
        return is("$status $again->{access_token}", "200 $token", 'the one before it gives the same again, within the grace period') if $case->{realm} eq 'grace';
        is("$status $again->{error}", '400 invalid_grant', 'the one before it gives nothing more');
        return if $case->{realm} ne 'guarded';
        is(refresh($node, $name)->{failure}, 'reauth', 'and whoever has presented it, the grant is dead');
        is(status_of($node, $name, $name)->{status}, 'needs_reauth', 'a new sign-in is needed');
    };
}

# ---- those that must not

for my $case (grep { $_->{failure} } @cases)
{
    my ($name, $before) = ($case->{name}, $server->stats);
    subtest $name => sub {
        my $path   = "/$case->{realm}/o/token/";
        my $token  = stored_token($case);
        my $result = refresh($node, $name);
        is_deeply([ @$result{qw(success failure)} ], [ JSON::PP::false, $case->{failure} ], 'refused');
        like($result->{message}, $case->{message}, '... with this message');
        is(events_of($node, $name), "refresh_failed/$case->{failure}", 'it is audited');
        is(stored_token($case), $token, 'the access token is as it was');
        ok(told($case, $token)->{active}, '... and active');
        is_deeply([ map { $_->{revoked} ? 'used up' : 'good' } $server->refresh_tokens($name) ], ['good'], 'the refresh token is good');
        my $after    = $server->stats;
        my $requests = $case->{unsent} ? 0 : @{ $case->{altered} } > 1 ? 2 : 1;    # with two secrets both are tried
        is($after->{requests}{$path} - $before->{requests}{$path}, $requests, 'requests that have arrived');
        is($after->{tls_errors} > $before->{tls_errors} ? 1 : 0, $case->{unsent} ? 1 : 0, 'whether the handshake has failed');
    };
    # Or it would be tried again while others are counted.
    sql(sprintf('SELECT token_refresh.disconnect(%s, %1$s, revoke => false)', literal($name)));
}

# ---- answers that are lost

for my $case (grep { $_->{lost} } @cases)
{
    my $name = $case->{name};
    subtest $name => sub {
        my $first = stored_token($case);
        $server->lose(1, $case->{lost} eq 'half');
        my $result = refresh($node, $name);
        # Where a connection was kept alive the request is repeated at once, or else a little later.
        note('said at once: ' . json($result));
        if ($case->{dead})
        {
            poll_until($node, "SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE provider = '$name'", 'the grant is dead');
            like(status_of($node, $name, $name)->{last_error}, qr/^lost_response: /, 'because an answer was lost');
        }
        else
        {
            poll_until($node, "SELECT status = 'connected' AND attempts = 0 AND refresh_count > 0 FROM token_refresh.token_status WHERE provider = '$name'", 'asked again, and answered');
            my $token = stored_token($case);
            isnt($token, $first, 'there is a new access token');
            ok(told($case, $token)->{active}, '... that is active');
        }
        my @known = $server->refresh_tokens($name);
        is_deeply([ map { $_->{revoked} ? 'used up' : 'good' } @known ], $case->{realm} eq 'keeping' ? ['good'] : [ 'used up', 'good' ], 'the server has made one new refresh token at most');
        return if $case->{dead};
        is($known[-1]{access_token}, stored_token($case), 'the good one came with our access token');
        is(refresh($node, $name)->{success}, JSON::PP::true, 'it can be refreshed further');
    };
}

# ---- introspection, as each client that can prove who it is

for my $case (grep { !$_->{own} && $_->{method} ne 'none' && $_->{realm} ne 'guarded' } @working)
{
    my $name = $case->{name};
    my ($good) = grep { !$_->{revoked} } $server->refresh_tokens($name);
    is(learned_expiry($node, $name, %$good), told($case, $good->{access_token})->{exp}, "$name: a token without a lifetime ends when the server says");
    sql(sprintf(q{SELECT token_refresh.disconnect(%s, 'introspected', revoke => false)}, literal($name)));
}

# ---- revocation

my @names = map { $_->{name} } @working;
all_revoked($node, @names);
for my $case (@working)
{
    my $name = $case->{name};
    subtest "$name, disconnected" => sub {
        ok(!told($case, $last{$name})->{active}, 'the access token is inactive, says the server');
        is(scalar(grep { !$_->{revoked} } $server->refresh_tokens($name)), 0, 'no refresh token is good');
        like(events_of($node, $name), $case->{own} ? qr/ disconnected token_revoked$/ : qr/ disconnected token_revoked token_revoked$/, 'the audit tells it');
    };
}

ok(secrets_absent(read_log($node) . sql(q{SELECT string_agg(a::text, ' ') FROM token_refresh.audit_event a}), keys %secrets), 'neither log nor audit holds a secret');

$node->stop;
done_testing();
