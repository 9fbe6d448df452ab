# A host name that leads to the provider first and to somewhere else later (DNS rebinding): nothing is sent to an address that is not
# to be asked, whatever the name server says, and however it is written. Where an administrator allows such addresses they are
# asked, and not a request longer: neither a kept connection nor a cached look-up takes one there.
#
# Runs in namespaces of its own, with a name server, and with the refused addresses on its loopback interface, where somebody listens.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";

BEGIN
{
    # Before the modules below send the output elsewhere.
    if (!$ENV{TOKEN_REFRESH_OWN_NAMESPACES})
    {
        my $unshare = 'unshare --user --map-current-user --keep-caps --net --mount';
        my $server  = "$FindBin::Bin/../support/rebinding_server.py";
        my $dir     = $ENV{TESTDATADIR} || 'tmp_check';
        mkdir $dir;
        my %file = ('resolv.conf' => "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", 'nsswitch.conf' => "hosts: files dns\n");
        for my $name (keys %file)
        {
            open(my $handle, '>', "$dir/rebinding_$name") or die "$dir/rebinding_$name: $!";
            print $handle $file{$name};
            close $handle;
        }
        my $mount = join ' && ', map { "{ [ ! -e /etc/$_ ] || mount --bind '$dir/rebinding_$_' /etc/$_; }" } sort keys %file;
        my $trouble = `$unshare sh -c "$mount && [ -e /etc/resolv.conf ] && exec python3 '$server' --check" 2>&1`;
        if ($? != 0)
        {
            ($trouble) = $trouble =~ /([^\n]*)\n*\z/;
            print "1..0 # SKIP no namespaces of its own here: $trouble\n";
            exit 0;
        }
        $ENV{TOKEN_REFRESH_OWN_NAMESPACES} = 1;
        exec split(/ /, $unshare), 'sh', '-c', "$mount && exec \"\$\@\"", 'sh', $^X, (map { "-I$_" } grep { !ref } @INC), $0;
    }
}

use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $good = '10.77.0.1';    # private networks may be asked

# What else its name leads to, by provider; and what is said about that.
my %bad = (
    metadata => { address => '169.254.169.254',        is => qr/a link-local address/ },
    mapped   => { address => '::ffff:169.254.169.254', is => qr/a link-local address/ },
    nat64    => { address => '64:ff9b::a9fe:a9fe',     is => qr/a link-local address/ },
    loopback => { address => '127.0.0.1',              is => qr/a loopback address, behind another name/ },
);
my @names   = sort keys %bad;
my @special = grep { $_ ne 'loopback' } @names;

# Those where nobody is to be asked; as the listeners see them.
my @inside = qw(127.0.0.1 169.254.169.254 64:ff9b::a9fe:a9fe);

my $server = TokenRefreshTest::Server->new('http', 'python3', "$FindBin::Bin/../support/rebinding_server.py");
my $node   = new_node('main', 'log_min_messages' => 'warning', 'token_refresh.allow_insecure_http' => 'on', 'token_refresh.http_timeout' => '10s');

sub query { return $node->safe_psql('postgres', $_[0]); }

sub state_of_server { return $server->call(GET => '/test/state'); }

sub point { my (%addresses) = @_; $server->call(POST => '/test/names', { map { ("$_.test" => $addresses{$_}) } keys %addresses }); return; }

sub inside_counts { my $state = state_of_server(); return [ map { ($state->{connections}{$_}, $state->{requests}{$_}) } @inside ]; }

# Without kept connections and cached look-ups.
sub new_refresher
{
    my $old = query('SELECT pid FROM token_refresh._refresher_state()');
    query("SELECT pg_terminate_backend($old)");
    $node->poll_query_until('postgres', "SELECT pid <> $old FROM token_refresh._refresher_state() WHERE phase = 'running'") or die 'no refresher';
    return;
}

# success|failure|message
sub refresh { my ($name) = @_; return query("SELECT success, failure, message FROM token_refresh.refresh_credential('$name', 'one')"); }

sub token { my ($name) = @_; return access_token($node, $name, 'one'); }

sub allow { my ($name, $allow) = @_; query("SELECT token_refresh.alter_provider('$name', '{\"allow_special_addresses\": $allow}')"); return; }

for my $name (@names, 'both', 'twin')
{
    my $host = $name eq 'twin' ? 'metadata' : $name;
    create_provider($node, $name, token_endpoint => "http://$host.test:8080/token", allow_insecure_http => \1);
    store_credential($node, $name, { subject => 'one', access_token => "fake-old-of-$name", refresh_token => "fake-refresh-of-$name", expires_in => 86400 });
}
point(map { $_ => [$good] } @names);
# What is asked, and how often, is the test's business alone.
query('SELECT token_refresh.pause()');

subtest 'the name leads to the provider' => sub {
    like(refresh($_), qr/^t\|/, $_) for @names;
    is(token($_), "fake-access-from-$good", "$_: a new token") for @names;
};

subtest 'the name server says something else, and the connection is kept' => sub {
    point(map { $_ => [ $bad{$_}{address} ] } @names);
    like(refresh($_), qr/^t\|/, "$_: the provider is asked as before") for @names;
    $server->call(POST => '/test/hang_up');
    refresh($_) for @names;
    is(token($_), "fake-access-from-$good", "$_: no other token") for @names;
    is_deeply(inside_counts(), [ (0) x 6 ], 'nobody else had a connection');
};

subtest 'the name is looked up anew' => sub {
    new_refresher();
    my $before = state_of_server();
    query('TRUNCATE token_refresh.audit_event');
    for my $name (@names)
    {
        my $told = refresh($name);
        like($told, qr/^f\|transient\|/, "$name: classified");
        like($told, qr/the host has an address that is not asked: $bad{$name}{is}/, "$name: it says why");
        is(token($name), "fake-access-from-$good", "$name: the token is kept");
        is(query("SELECT string_agg(event || '/' || failure, ' ') FROM token_refresh.audit_event WHERE provider = '$name'"), 'refresh_failed/transient', "$name: audited once");
        my $status = status_of($node, $name, 'one');
        is($status->{status}, 'connected', "$name: the grant lives");
        like($status->{last_error}, qr/^transient: .*$bad{$name}{is}/, "$name: shown");
    }
    my $after = state_of_server();
    cmp_ok($after->{questions}{"$_.test"}, '>', $before->{questions}{"$_.test"}, "$_: it was looked up") for @names;
    is($after->{requests}{$good}, $before->{requests}{$good}, 'the provider itself was not asked');
    is_deeply(inside_counts(), [ (0) x 6 ], 'nobody had a connection');
};

subtest 'one of two addresses' => sub {
    point(both => [ $good, '169.254.169.254', '64:ff9b::a9fe:a9fe', '::ffff:169.254.169.254', '127.0.0.1' ]);
    like(refresh('both'), qr/^t\|/, 'the provider is found among them');
    is(token('both'), "fake-access-from-$good", 'it has given the token');
    is_deeply(inside_counts(), [ (0) x 6 ], 'nobody else had a connection');
};

subtest 'allowed, they are asked' => sub {
    allow($_, 'true') for @names;
    like(refresh($_), qr/^t\|/, $_) for @special;
    is(token($_), 'fake-access-from-' . ($_ eq 'nat64' ? '64:ff9b::a9fe:a9fe' : '169.254.169.254'), "$_: a new token") for @special;
    like(refresh('loopback'), qr/^f\|transient\|.*$bad{loopback}{is}/, 'but loopback is for those who name it');
    is_deeply(inside_counts(), [ 0, 0, 2, 2, 1, 1 ], 'one connection for each');
};

subtest 'allowed to one is not allowed to another' => sub {
    like(refresh('twin'), qr/^f\|transient\|.*a link-local address/, 'a kept connection to the same host is there');
    is(token('twin'), 'fake-old-of-twin', 'its token is as it was');
    is_deeply(inside_counts(), [ 0, 0, 2, 2, 1, 1 ], 'no request has gone over it');
};

subtest 'not allowed any more' => sub {
    like(refresh('metadata'), qr/^t\|/, 'asked once more, which leaves a connection');
    my $counts = inside_counts();
    allow($_, 'false') for @special;
    like(refresh($_), qr/^f\|transient\|.*$bad{$_}{is}/, $_) for @special;
    is_deeply(inside_counts(), $counts, 'nobody was asked over a kept connection');
    point(map { $_ => [$good] } @names);
    new_refresher();
    like(refresh($_), qr/^t\|/, "$_: leads to the provider again") for @names;
    is(token($_), "fake-access-from-$good", "$_: a new token") for @names;
};

$node->stop;
done_testing();
