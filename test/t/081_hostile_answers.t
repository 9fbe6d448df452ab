# Providers that try to harm the server: each answer costs little memory and time, is classified and audited, and leaves the tokens as
# they were. The refresher lives on, and other providers' tokens are refreshed meanwhile. No secret goes to another host, or to one
# that cannot prove its name.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use DialectTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use TokenRefreshTest;

my $http_timeout  = 10;                # seconds
my $memory_bound  = 96 * 1024;         # KiB that the refresher's peak may grow by; all answers come at once
my $memory_of_one = 32 * 1024;         # KiB for one answer, with what the ones before have left in the allocator
my $slow_timeout  = 1;                 # seconds, where each is asked by itself
my $read_bound    = 16 * 1024 * 1024;  # bytes that go out before the server notices that nobody reads: 1 MiB and what sockets buffer
my $dir           = PostgreSQL::Test::Utils::tempdir();
my @certificates  = qw(wrong_name expired self_signed);
make_keys($dir);
make_certificates($dir);
my $hostile = TokenRefreshTest::Server->new('http', 'python3', "$FindBin::Bin/../support/hostile_server.py",
    map { ('--tls', $_, "$dir/$_.crt", "$dir/$_.key") } @certificates, 'server');
my $healthy = start_token_server();
my $node    = new_node('main', 'log_min_messages' => 'warning', 'token_refresh.http_timeout' => "${http_timeout}s", 'token_refresh.request_timeout' => '60s');

sub query { return $node->safe_psql('postgres', $_[0]); }

sub state_of_server { return $hostile->call(GET => '/test/state'); }

sub refresher_pid { return query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'"); }

# KiB
sub peak_memory
{
    my ($pid) = @_;
    my ($peak) = slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m or die 'no VmHWM';
    return $peak;
}

# What the failure of each must say.
my $too_large = qr/too large|larger than|exceed|1 MiB|limit/i;
my $late      = qr/time|late/i;
my %message   = (
    (map { $_ => $too_large } qw(ten_gigabytes ten_gigabytes_chunked ten_gigabytes_until_close ten_gigabytes_with_500 tiny_chunks many_headers long_header interim_answers)),
    (map { $_ => $late } qw(one_byte_a_second one_header_byte_a_second silence)),
    (map { $_ => qr/neither a JSON object nor form-encoded|damaged/ } qw(gzip_bomb gzip_good only_nul_bytes)),
    (map { $_ => qr/control characters or invalid UTF-8|damaged JSON/ } qw(nul_bytes nul_escape invalid_utf8)),
    (map { $_ => qr/deep/ } qw(deep_lists deep_objects)),
    (map { $_ => qr/HTML|XML|markup/ } qw(xml_laughs xml_external)),
    (map { $_ => qr/neither/ } qw(xml_open xml_nul xml_nul_reference)),
    (map { $_ => qr/no access token/ } qw(xml_many_elements xml_many_attributes)),
    xml_deep         => qr/deep/,
    xml_invalid_utf8 => qr/control characters or invalid UTF-8/,
    (map { $_ => qr/redirect refused/ } qw(redirect_301 redirect_302 redirect_303 redirect_307 redirect_308)),
    number_of_1_mb => qr/not text/,
    many_members   => qr/no access token/,
    cut_short      => qr/not complete|cut|end|transfer/i,
    no_http        => qr/protocol/i,
);
my @hows = sort keys %message;
# Unusual, but there is a token, and it is less than 1 MiB.
my @good = qw(token_of_1_mb lifetime_of_1_mb);

# Addresses and hosts that are never asked, and certificates that prove nothing.
my $ports   = state_of_server()->{ports};
my %refused = (
    (map { $_ => { options => { token_endpoint => "https://127.0.0.1:$ports->{$_}/token", ca_file => "$dir/ca.crt" }, message => qr/certificate|SSL|TLS/i } } @certificates),
    unknown_ca   => { options => { token_endpoint => "https://127.0.0.1:$ports->{server}/token" }, message => qr/certificate|SSL|TLS/i },
    metadata     => { options => { token_endpoint => 'https://169.254.169.254/latest/meta-data' }, message => qr/link-local/ },
    metadata_v6  => { options => { token_endpoint => 'https://[fd00:ec2::254]/latest' }, message => qr/metadata/ },
    mapped_v6    => { options => { token_endpoint => 'https://[::ffff:169.254.169.254]/' }, message => qr/link-local/ },
    oracle_cloud => { options => { token_endpoint => 'https://192.0.0.192/' }, message => qr/metadata/ },
    unspecified  => { options => { token_endpoint => 'https://0.0.0.0/' }, message => qr/unspecified/ },
    multicast    => { options => { token_endpoint => 'https://224.0.0.1/' }, message => qr/multicast/ },
    leaves_pattern => { options => { token_endpoint => 'https://${host}.login.example.com/token', captured_fields => ['host'] }, host => 'evil.example/', message => qr/something else than a host/, failure => 'client_config' },
    leaves_list    => { options => { token_endpoint => 'https://${host}/token', captured_fields => ['host'], allowed_hosts => ['*.example.com'] }, host => '169.254.169.254', message => qr/host is not allowed/, failure => 'client_config' },
    leaves_by_port => { options => { token_endpoint => 'https://${host}/token', captured_fields => ['host'], allowed_hosts => ['*.example.com'] }, host => 'a.example.com:1', message => qr/something else than a host/, failure => 'client_config' },
    leaves_by_user => { options => { token_endpoint => 'https://${host}/token', captured_fields => ['host'], allowed_hosts => ['*.example.com'] }, host => 'a.example.com@evil.example', message => qr/something else than a host/, failure => 'client_config' },
);

sub add
{
    my ($name, $options, %more) = @_;
    create_provider($node, $name, %$options);
    store_credential($node, $name, { subject => 'one', access_token => "fake-old-of-$name", refresh_token => "fake-refresh-of-$name", expires_in => 900, %more });
    return;
}

query('SELECT token_refresh.pause()');
my %xml = (response_format => 'xml', response_pointers => { access_token => '/r/access_token' });
add($_, { token_endpoint => $hostile->url . "/$_/token", request_params => { client_id => undef }, /^xml_/ ? %xml : () }) for @hows, @good;
add($_, $refused{$_}{options}, $refused{$_}{host} ? (host => $refused{$_}{host}) : ()) for sort keys %refused;
create_provider($node, 'healthy', token_endpoint => $healthy->token_endpoint('healthy'));
store_credential($node, 'healthy', $healthy->grants('healthy', n => 20, prefix => 'h'));

my $healthy_names = join(', ', map { "'h$_'" } 0 .. 19);
my $healthy_query = "SELECT count(*) FILTER (WHERE r.success) FROM token_refresh.credential c, token_refresh.refresh_credential('healthy', c.subject) r WHERE c.provider = 'healthy'";
is(query($healthy_query), 20, 'the healthy provider is asked');
my $pid    = refresher_pid();
my $before = peak_memory($pid);

# ---- all at once

my $began = time;
my $all   = start_query($node, "SELECT tokens_found, tokens_refreshed FROM token_refresh.refresh_expiring_tokens('20 minutes')", timeout => 120);
usleep(50_000) until (state_of_server()->{arrived}{silence} // 0) > 0 || time - $began > 60;
is(query($healthy_query), 20, 'meanwhile the tokens of another provider are refreshed');
ok($all->is_running, 'while answers of the hostile ones are under way');
my ($counts, $error) = $all->finish;
my $seconds = time - $began;
my $peak    = peak_memory($pid);
is($counts, (@hows + @good + keys %refused) . '|' . @good, 'all are asked, those only are refreshed that have got a token') or diag($error);
is(refresher_pid(), $pid, 'the refresher lives on');
cmp_ok($peak - $before, '<', $memory_bound, 'its memory stays within bounds');
cmp_ok($seconds, '<', 60, 'and so does the time');
note(sprintf('peak memory of the refresher: %d KiB before, %d KiB after; all together took %.1f s, the limit of a request is %d s', $before, $peak, $seconds, $http_timeout));

# ---- each

sub test_failure
{
    my ($name, $failure, $pattern) = @_;
    my ($events, $class, $message, $stored) = split /\|/, query(<<"END"), 4;
SELECT (SELECT string_agg(event || '/' || failure, ' ') FROM token_refresh.audit_event a WHERE a.provider = s.provider AND event NOT IN ('provider_created', 'credential_stored')),
    split_part(s.last_error, ':', 1), replace(s.last_error, '|', ''), token_refresh.get_access_token(s.provider, s.subject)
FROM token_refresh.token_status s WHERE s.provider = '$name'
END
    subtest $name => sub {
        is($class,  $failure,                  'classified');
        is($events, "refresh_failed/$failure", 'audited once');
        like($message, $pattern, 'the message says what it was');
        is($stored, "fake-old-of-$name", 'the access token is as it was');
    };
    return;
}

test_failure($_, 'transient', $message{$_}) for @hows;
test_failure($_, $refused{$_}{failure} // 'transient', $refused{$_}{message}) for sort keys %refused;
is(query("SELECT length(token_refresh.get_access_token('token_of_1_mb', 'one'))"), 1_000_000, 'a token of 1 MB is stored');
is(query("SELECT token_refresh.get_access_token('lifetime_of_1_mb', 'one'), expires_at BETWEEN now() + '50 minutes' AND now() + '1 hour' FROM token_refresh.token_status WHERE provider = 'lifetime_of_1_mb'"),
    'fake-lifetime|t', 'a lifetime of a million digits is none; the token has the default');

my $state = state_of_server();
subtest 'of an endless body no more than a MiB is read' => sub {
    for my $how (grep { exists $state->{sent}{$_} } @hows)
    {
        cmp_ok($state->{sent}{$how}, '<', $read_bound, "$how: $state->{sent}{$how} bytes went out");
    }
    ok(exists $state->{sent}{$_}, "$_ was sent") for qw(ten_gigabytes ten_gigabytes_chunked ten_gigabytes_until_close ten_gigabytes_with_500);
};
is($state->{elsewhere}, 0, 'nobody followed a redirect, or asked for an entity');
is_deeply($state->{tls}, { map { $_ => 0 } @certificates, 'server' }, 'no request reached a server that could not prove its name');
is_deeply($state->{arrived}, { map { $_ => 1 } @hows, @good }, 'each hostile server was asked once');

# ---- each by itself, in a new refresher: what it costs

my %slow = map { $_ => 1 } qw(one_byte_a_second one_header_byte_a_second silence);    # until the time limit, whatever it is
query("SELECT pg_terminate_backend($pid)");
poll_until($node, "SELECT pid <> $pid FROM token_refresh._refresher_state() WHERE phase = 'running'", 'another refresher is there');
$pid = refresher_pid();
query("SELECT token_refresh.alter_provider('$_', '{\"timeout\": \"${slow_timeout} s\"}')") for sort keys %slow;
is(query($healthy_query), 20, 'it works');
my $base = peak_memory($pid);

# The time of the statement in seconds, and the refresher's peak meanwhile in KiB.
sub cost_of
{
    my ($name) = @_;
    append_to_file("/proc/$pid/clear_refs", '5');    # the peak is counted anew
    my $start = time;
    query("SELECT token_refresh.refresh_credential('$name', 'one')");
    return (time - $start, peak_memory($pid));
}

subtest 'each costs little' => sub {
    note(sprintf '%-28s %8s %14s', '', 'seconds', "KiB over $base");
    for my $name (@hows, @good, sort keys %refused)
    {
        my ($seconds_of, $peak_of) = cost_of($name);
        note(sprintf '%-28s %8.3f %14d', $name, $seconds_of, $peak_of - $base);
        cmp_ok($seconds_of, '<', 30, "$name: time");
        cmp_ok($peak_of - $base, '<', $memory_of_one, "$name: memory");
    }
};

is_deeply(state_of_server()->{arrived}, { map { $_ => 2 } @hows, @good }, 'each was asked once more');

# ---- nothing is lost

$hostile->call(POST => '/test/mend');
query("SELECT token_refresh.alter_provider('$_', '{\"timeout\": null}')") for sort keys %slow;
is(query("SELECT count(*), string_agg(c.provider || ': ' || r.message, ', ') FILTER (WHERE NOT r.success) FROM token_refresh.credential c, token_refresh.refresh_credential(c.provider, c.subject) r WHERE c.provider IN ("
        . join(', ', map { "'$_'" } @hows) . ')'), @hows . '|', 'once they answer well, all are refreshed');
is_deeply(state_of_server()->{wrong}, [], 'with the refresh tokens that were stored');
is(refresher_pid(), $pid, 'by the same refresher');
is(query("SELECT count(*) FROM token_refresh.audit_event WHERE message ~ 'fake-(old|refresh|access)-of|obviously-fake'"), '0', 'no message holds a secret');
unlike(read_log($node), qr/fake-refresh-of|obviously-fake-secret/, 'nor does the log');

$node->stop;
done_testing();
