# Helpers for the TAP tests in test/t, on top of PostgreSQL::Test::Cluster.
#
#   my $server = start_token_server();
#   my $node = new_node('main', 'token_refresh.http_timeout' => '2s');
#   create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
#   my ($grant) = $server->grants('acme', n => 1, prefix => 'alice');
#   store_credential($node, 'acme', $grant);
package TokenRefreshTest;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use IPC::Run;
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest::Server;

our @EXPORT = qw(
    new_node start_token_server start_oidc_server create_provider store_credential access_token status_of
    poll_until start_query background_session read_log secrets_absent literal json
);

my $support_dir = dirname(__FILE__);

sub json { return JSON::PP->new->canonical->encode($_[0]); }

# A string as an SQL literal.
sub literal
{
    my ($text) = @_;
    return 'NULL' unless defined $text;
    $text =~ s/'/''/g;
    return $text =~ s/\\/\\\\/g ? " E'$text'" : "'$text'";
}

# A running cluster with the extension in database postgres. %conf: settings,
# and -init => {...} (parameters of PostgreSQL::Test::Cluster::init),
# -start => 0 (init only), -extension => 0 (no CREATE EXTENSION).
sub new_node
{
    my ($name, %conf) = @_;
    my %option = (-init => {}, -start => 1, -extension => 1);
    $option{$_} = delete $conf{$_} for grep { exists $conf{$_} } keys %option;

    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(%{ $option{-init} });
    my %settings = (
        'shared_preload_libraries' => 'token_refresh',
        'token_refresh.key_file'   => new_key_file($node),
        'log_min_messages'         => 'debug1',
        # The statements of the tests hold secrets as literals; what the tests
        # look for in the log is what the extension puts there.
        'log_statement' => 'none',
        %conf);
    $node->append_conf('postgresql.conf', "$_ = " . literal($settings{$_})) for sort keys %settings;
    return $node unless $option{-start};

    $node->start;
    $node->safe_psql('postgres', 'CREATE EXTENSION token_refresh') if $option{-extension};
    return $node;
}

# A key ring with one new key, beside the data directory.
sub new_key_file
{
    my ($node) = @_;
    my $path = $node->basedir . '/token_refresh.keys';
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!";
    read($random, my $key, 32) == 32 or die "cannot read /dev/urandom: $!";
    my $mask = umask 077;
    append_to_file($path, 'test ' . encode_base64($key, '') . "\n");
    umask $mask;
    return $path;
}

# The scriptable provider (test/support/token_server.py), see TokenRefreshTest::TokenServer.
# tls => [certificate file, key file].
sub start_token_server
{
    my (%option) = @_;
    my @tls = $option{tls} ? ('--tls', @{ $option{tls} }) : ();
    return TokenRefreshTest::TokenServer->new($option{tls} ? 'https' : 'http',
        'python3', "$support_dir/token_server.py", @tls);
}

# The OpenID Connect server (test/support/oidc_server), see
# TokenRefreshTest::OidcServer. To be called first: skips the whole script when it is not
# installed. %env: its environment, e.g. ACCESS_TOKEN_TTL.
sub start_oidc_server
{
    my (%env) = @_;
    my $dir = $ENV{TOKEN_REFRESH_OIDC_SERVER};
    plan(skip_all => 'TOKEN_REFRESH_OIDC_SERVER (see scripts/install-oidc-server) is not set') unless $dir;
    local %ENV = (%ENV, %env);
    return TokenRefreshTest::OidcServer->new('http', 'node', "$dir/server.mjs");
}

# %options: those of token_refresh.create_provider, and client_id, client_secret.
sub create_provider
{
    my ($node, $name, %options) = @_;
    my $client_id     = delete $options{client_id}     // 'test-client';
    my $client_secret = delete $options{client_secret} // 'obviously-fake-secret';
    $client_secret = undef if ($options{token_endpoint_auth_method} // '') =~ /^none$|tls_client_auth$/;
    $node->safe_psql('postgres',
        sprintf('SELECT token_refresh.create_provider(%s, client_id => %s, client_secret => %s, options => %s)',
            literal($name), literal($client_id), literal($client_secret), literal(json(\%options))));
    return;
}

# Stores grants as grants() returns them.
sub store_credential
{
    my ($node, $provider, @grants) = @_;
    my $sql = '';
    for my $grant (@grants)
    {
        my %response = %$grant;
        my $subject  = delete $response{subject};
        $sql .= sprintf("SELECT token_refresh.store_credential(%s, %s, %s);\n",
            literal($provider), literal($subject), literal(json(\%response)));
    }
    $node->safe_psql('postgres', $sql);
    return;
}

# What get_access_token() returns; '' for NULL.
sub access_token
{
    my ($node, $provider, $subject) = @_;
    return $node->safe_psql('postgres',
        sprintf('SELECT token_refresh.get_access_token(%s, %s)', literal($provider), literal($subject)));
}

# The row of token_status as a hash; undef when there is none.
sub status_of
{
    my ($node, $provider, $subject) = @_;
    my $row = $node->safe_psql('postgres',
        sprintf('SELECT to_jsonb(t) FROM token_refresh.token_status t WHERE provider = %s AND subject = %s',
            literal($provider), literal($subject)));
    return $row eq '' ? undef : JSON::PP->new->decode($row);
}

# A test point: the query comes to answer $expected ('t') within the time limit of the suite.
sub poll_until
{
    my ($node, $query, $what, $expected) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok($node->poll_query_until('postgres', $query, $expected // 't'), $what);
}

# Runs SQL in a psql of its own while the test goes on; see TokenRefreshTest::Query.
sub start_query
{
    my ($node, $sql, %option) = @_;
    return TokenRefreshTest::Query->new($node, $sql, %option);
}

# A psql session that stays open; errors do not end it. To be ended with quit.
# Its query() returns (output, whether there was an error).
sub background_session
{
    my ($node, $database) = @_;
    return $node->background_psql($database // 'postgres', on_error_stop => 0);
}

# The server's log, from an offset if wanted.
sub read_log
{
    my ($node, $offset) = @_;
    return slurp_file($node->logfile, $offset // 0);
}

# True when none of the secrets occurs in the text, as it is or encoded. Says
# which one did by its number, not its value.
sub secrets_absent
{
    my ($text, @secrets) = @_;
    my $absent = 1;
    for my $i (0 .. $#secrets)
    {
        my $secret = $secrets[$i];
        die 'secrets_absent: an empty or undefined secret' unless defined $secret && $secret ne '';
        (my $url_encoded = $secret) =~ s/([^A-Za-z0-9_.~-])/sprintf('%%%02X', ord $1)/ge;
        my %form = (
            'as it is'    => $secret,
            'in hex'      => unpack('H*', $secret),
            'in base64'   => encode_base64($secret, '') =~ s/=+$//r,
            'URL-encoded' => $url_encoded);
        for my $name (sort keys %form)
        {
            next if index(lc $text, lc $form{$name}) < 0;
            diag("secret number $i occurs, $name");
            $absent = 0;
        }
    }
    return $absent;
}

# SQL under way in a psql of its own.
package TokenRefreshTest::Query;

sub new
{
    my ($class, $node, $sql, %option) = @_;
    # psql's input stays open until finish(), so it has to be told to quit.
    my $self = bless { stdout => '', stderr => '', sql => "$sql\n;\n\\q\n" }, $class;
    my $timeout = IPC::Run::timer($option{timeout} // $PostgreSQL::Test::Utils::timeout_default);
    local $ENV{PGAPPNAME} = $option{name} // 'test query';
    $self->{run} = IPC::Run::start(
        [ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($option{database} // 'postgres'),
            '-f', '-' ],
        '<', \$self->{sql}, '>', \$self->{stdout}, '2>', \$self->{stderr}, $timeout);
    $self->{timer} = $timeout;
    $self->{run}->pump_nb;
    return $self;
}

sub is_running
{
    my ($self) = @_;
    $self->{run}->pump_nb;
    return $self->{run}->pumpable ? 1 : 0;
}

# Waits for the end. Returns (standard output without the last newline, standard error, psql's status).
sub finish
{
    my ($self) = @_;
    while ($self->{run}->pumpable)
    {
        $self->{run}->pump;
        if ($self->{timer}->is_expired)
        {
            $self->{run}->kill_kill(grace => 2);
            die "timed out: $self->{stderr}";
        }
    }
    $self->{run}->finish;
    chomp $self->{stdout};
    return ($self->{stdout}, $self->{stderr}, $self->{run}->result(0) // 0);
}

1;
