# P7 for sign-ins: with the server logging all it can, also of what the refresher executes, no state, code, verifier, token or
# client secret is in the log, an error, a table, a view, pg_stat_activity or shared memory.
use strict;
use warnings;

use FindBin;
use IPC::Run;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use SignInTest;
use TokenRefreshTest;

my $server    = start_openid_server();
my $libraries = PostgreSQL::Test::Cluster->new('unused')->config_data('--pkglibdir');
my @preloaded = ('token_refresh', grep { -e "$libraries/$_.so" } qw(auto_explain pg_stat_statements));
my $node = new_node('main', 'shared_preload_libraries' => join(', ', @preloaded), 'log_min_messages' => 'debug5', 'log_min_error_statement' => 'debug5',
    'log_error_verbosity' => 'verbose', 'log_statement' => 'all', 'log_duration' => 'on', 'dynamic_shared_memory_type' => 'mmap',
    'token_refresh.http_timeout' => '8s', (@preloaded > 1 ? ('auto_explain.log_min_duration' => 0, 'auto_explain.log_nested_statements' => 'on',
        'auto_explain.log_verbose' => 'on', 'auto_explain.log_analyze' => 'on', 'pg_stat_statements.track' => 'all', 'pg_stat_statements.track_utility' => 'on') : ()),
    # What a client binds is shown if the administrator asks for it; this is about what the extension shows.
    'log_parameter_max_length' => 0);
my $query = sub { return $node->safe_psql('postgres', $_[0]) };
$query->('CREATE TABLE held (kind text, secret text); CREATE ROLE client LOGIN SUPERUSER');
# The statements of clients hold what they bind when they are explained; those of the refresher are looked at.
$query->(q{ALTER ROLE client SET auto_explain.log_min_duration = -1}) if @preloaded > 1;
$query->('CREATE EXTENSION pg_stat_statements') if grep { $_ eq 'pg_stat_statements' } @preloaded;
my ($told, @secrets) = ('');

# One statement with bound parameters $1, $2, ... ; begun, and to be finished.
my $bind = sub {
    my ($sql, @values) = @_;
    my $script = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
    $sql =~ s/\$(\d)/:v$1/g;
    append_to_file($script, "$sql;\n");
    my $number = 0;
    my %run = (out => '', err => '');
    $run{run} = IPC::Run::start([ $node->installed_command('pgbench'), '-n', '-M', 'extended', '-c', 1, '-t', 1, '-f', $script, (map { $number++; ('-D', "v$number=$_") } @values),
        $node->connstr('postgres') . ' user=client' ], '<', \undef, '>', \$run{out}, '2>', \$run{err});
    return \%run;
};
my $end = sub { my ($run) = @_; $run->{run}->finish; $told .= "$run->{out}$run->{err}\n"; return $run->{run}->result(0) == 0 && $run->{err} !~ /ERROR/ };
my $bound = sub { return $end->($bind->(@_)) };

my $client = $server->stats->{client};
push @secrets, $client->{client_secret};
my $known = { %{ $server->stats->{tokens} } };
my $verifiers = @{ $server->stats->{verifiers} };
ok($bound->('SELECT token_refresh.create_provider($1, $2, $3, $4::jsonb)', 'idp', @{$client}{qw(client_id client_secret)}, json({ issuer => $server->url })), 'a provider');
my $begin = sub {
    $query->('TRUNCATE held');
    ok($bound->(q{INSERT INTO held SELECT state, authorization_url FROM token_refresh.begin_authorization($1, redirect_uri => 'https://app.example.com/cb', scope => 'openid')}, 'idp'), 'begun');
    my ($state, $url) = split /\|/, $query->('SELECT * FROM held'), 2;
    my ($redirect) = HTTP::Tiny->new(max_redirect => 0)->get($url)->{headers}{location} =~ /\?(.*)/;
    my %answer = map { my ($name, $value) = split /=/; $value =~ s/%(..)/chr hex $1/ge; ($name, $value) } split /&/, $redirect;
    push @secrets, @answer{qw(state code)};
    return @answer{qw(state code iss)};
};
my $complete = 'SELECT provider, subject FROM token_refresh.complete_authorization($1, $2, iss => $3)';

my @answer = $begin->();
my $pid = $query->(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'});
kill('STOP', $pid) or die $!;
my $run = $bind->($complete, @answer);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = 'client' AND wait_event_type = 'Extension'}) or die;
my $memory = join '', map { slurp_file($_) } glob($node->data_dir . '/pg_dynshmem/mmap.*');
cmp_ok(length $memory, '>', 100, 'a request waits in shared memory');
ok(secrets_absent($memory, @secrets), '... sealed');
ok(secrets_absent($query->('SELECT a FROM pg_stat_activity a'), @secrets), 'nor does pg_stat_activity show it');
kill('CONT', $pid) or die $!;
ok($end->($run), 'it is completed');

for my $trouble ({ refuse => 'invalid_grant' }, { forge => 'hs256' }, { claims => { nonce => 'another' } }, { down => ['/token'] }, { down => ['/userinfo', '/revoke'], id_token => JSON::PP::false },
    { raw => { '/token' => [ 200, 'application/json', '{"access_token": "at_raw_and_obviously_fake", "refresh_token": "rt_raw_and_obviously_fake", "token_type": 7, "expires_in": {}}' ] } })
{
    @answer = $begin->();
    $server->control(%$trouble);
    ok(!$bound->($complete, @answer), 'refused: ' . join ', ', keys %$trouble);
    ok(!$bound->($complete, @answer), '... for good');
}
push @secrets, 'at_raw_and_obviously_fake', 'rt_raw_and_obviously_fake';
$server->control();
$query->(q{ALTER TABLE token_refresh.credential ADD CONSTRAINT never CHECK (status <> 'connected') NOT VALID});
ok(!$bound->($complete, $begin->()), 'a credential that is not stored');
$query->(q{ALTER TABLE token_refresh.credential DROP CONSTRAINT never});
my @tokens = grep { !exists $known->{$_} } keys %{ $server->stats->{tokens} };
$server->control(raw => { '/revoke' => [ 400, 'application/json', json({ error => 'invalid_request', error_description => "no: @tokens $client->{client_secret}" }) ] });
ok($bound->(q{SELECT token_refresh.disconnect('idp', subject) FROM token_refresh.credential}), 'disconnected');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM token_refresh.revocation}) or die;
like($query->(q{SELECT message FROM token_refresh.audit_event WHERE event = 'revocation_failed' LIMIT 1}), qr/no: .*\[redacted\]/, 'a refusal that quotes what was sent');

my $stats = $server->stats;
push @secrets, grep { !exists $known->{$_} } keys %{ $stats->{tokens} };
push @secrets, @tokens, @{ $stats->{verifiers} }[ $verifiers .. $#{ $stats->{verifiers} } ];
cmp_ok(scalar @secrets, '>=', 25, 'secrets that are looked for: ' . scalar @secrets);
$query->('DROP TABLE held');
for my $name (split / /, $query->(q{SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class c WHERE (c.relnamespace = 'token_refresh'::regnamespace AND c.relkind IN ('r', 'v')) OR c.relname = 'pg_stat_statements'}))
{
    my $rows = $query->("SELECT * FROM $name");
    ok(secrets_absent($rows . join("\n", map { pack 'H*', $_ } $rows =~ /\\x([0-9a-f]+)/g), @secrets), $name) if $rows =~ /\S/;
}
ok(secrets_absent($told, @secrets), 'what clients were told');
$node->stop;
my $log = read_log($node);
like($log, qr/_take_authorization/, 'the log has what the refresher executes') if @preloaded > 1;
ok(secrets_absent($log, @secrets), '... and no secret');
unlike($log, qr/TRAP|PANIC/, 'nothing broke');

done_testing();
