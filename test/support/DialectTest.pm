# The table of provider dialects, test/conformance/cases.json, for the TAP tests: each row becomes a provider and a credential of
# its name, and a script for test/support/dialect_server.py. test/conformance/README.md says what a row holds.
package DialectTest;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TokenRefreshTest;

our @EXPORT = qw(read_cases make_keys make_certificates start_dialect_server case_script case_statements expected_of compare_case);

my $support_dir = dirname(__FILE__);

# Everything that a row may hold, so that a slip in a row is not overlooked.
my %known = map { $_ => 1 } qw(name source options client_id client_secret previous_client_secret stored tls refused exchanges request answer expect unsupported);
my %known_expectation = map { $_ => 1 } qw(failure status message access_token refresh_token expires_in tolerance refresh_expires_in scope token_type
    captured secondary due warning events again);

# ---- the table

sub read_cases
{
    my $cases = JSON::PP->new->utf8->decode(slurp_file("$support_dir/../conformance/cases.json"));
    my %seen;
    for my $case (@$cases)
    {
        my $name = $case->{name} // die 'a case without a name';
        die "two cases are named $name" if $seen{$name}++;
        die "$name: no source" unless $case->{source};
        $known{$_} or die "$name: unknown member $_" for keys %$case;
        $known_expectation{$_} or die "$name: unknown expectation $_" for keys %{ $case->{expect} // {} };
        next if $case->{refused};
        $case->{answer} //= { body => { access_token => '<access>', token_type => 'Bearer', expires_in => 3600 } };
        $case->{exchanges} //= exists $case->{request} && !defined $case->{request} ? [] : [{ request => $case->{request} // {}, answer => $case->{answer} }];
    }
    return @$cases;
}

# ---- keys and certificates

sub openssl { system_or_bail('openssl', @_); return; }

# RSA, P-256 and Ed25519 as NAME.pem and NAME.pub in the directory.
sub make_keys
{
    my ($dir) = @_;
    my %kind = (rsa => ['-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048'], ec => ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'], ed => ['-algorithm', 'ED25519']);
    for my $name (sort keys %kind)
    {
        openssl('genpkey', @{ $kind{$name} }, '-out', "$dir/$name.pem");
        openssl('pkey', '-in', "$dir/$name.pem", '-pubout', '-out', "$dir/$name.pub");
    }
    return;
}

# A certificate NAME.crt with NAME.key, signed by ISSUER.crt or by itself. -days may be negative; a list of names as in subjectAltName.
sub make_certificate
{
    my ($dir, $name, %option) = @_;
    openssl('req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', "/CN=$name", '-keyout', "$dir/$name.key", '-out', "$dir/$name.csr");
    unlink "$dir/$name.ext";
    append_to_file("$dir/$name.ext", join("\n", $option{ca} ? 'basicConstraints=critical,CA:TRUE' : 'basicConstraints=CA:FALSE', $option{names} ? "subjectAltName=$option{names}" : (), ''));
    my @issuer = $option{issuer} ? ('-CA', "$dir/$option{issuer}.crt", '-CAkey', "$dir/$option{issuer}.key", '-CAcreateserial') : ('-signkey', "$dir/$name.key");
    openssl('x509', '-req', '-in', "$dir/$name.csr", '-days', $option{days} // 2, '-extfile', "$dir/$name.ext", @issuer, '-out', "$dir/$name.crt");
    return;
}

# ca; server (127.0.0.1, localhost) and client by it; wrong_name, expired by it; self_signed.
sub make_certificates
{
    my ($dir) = @_;
    my $names = 'IP:127.0.0.1,DNS:localhost';
    make_certificate($dir, 'ca',          ca     => 1);
    make_certificate($dir, 'server',      issuer => 'ca', names => $names);
    make_certificate($dir, 'client',      issuer => 'ca');
    make_certificate($dir, 'wrong_name',  issuer => 'ca', names => 'DNS:elsewhere.example');
    make_certificate($dir, 'expired',     issuer => 'ca', names => $names, days => -1);
    make_certificate($dir, 'self_signed', names  => $names);
    return;
}

# ---- the server

# It needs what make_keys and make_certificates have made. Its {tls_url} is the one for https.
sub start_dialect_server
{
    my ($dir) = @_;
    my $server = TokenRefreshTest::Server->new('http', 'python3', "$support_dir/dialect_server.py", '--keys', $dir, '--tls', "$dir/server.crt", "$dir/server.key",
        '--client-ca', "$dir/ca.crt");
    $server->{tls_url} = 'https://127.0.0.1:' . $server->call(GET => '/test/tls_port')->[0];
    return $server;
}

# ---- from a row to a provider

# What <name> stands for in a row. presented: what the next request has to present.
sub values_of
{
    my ($case, $url, $dir) = @_;
    my $name = $case->{name};
    (my $port = $url) =~ s/.*://;
    return {
        (map { $_ => "fake-$_-of-$name" } qw(old_access old_refresh access refresh user_access user_refresh)),
        name => $name, url => "$url/$name", port => $port, dir => $dir, client_id => $case->{client_id} // 'test-client'
    };
}

sub presented
{
    my ($case, $values, $round) = @_;
    my $usual     = ($case->{options}{grant_type} // '') =~ /token-exchange$/ || !exists(($case->{stored} // { refresh_token => 1 })->{refresh_token}) ? 'access_token' : 'refresh_token';
    my $by_access = ($case->{options}{refresh_with} // $usual) eq 'access_token';
    return $values->{old_access} if $by_access && $round == 1;
    return $values->{old_refresh} if $round == 1;
    my $expected = expected_of($case);
    return $expected->{access_token} eq 'new' ? $values->{access} : $values->{old_access} if $by_access;
    return $expected->{refresh_token} eq 'rotated' ? $values->{refresh} : $values->{old_refresh};
}

sub fill
{
    my ($value, $values) = @_;
    return { map { $_ => fill($value->{$_}, $values) } keys %$value } if ref $value eq 'HASH';
    return [map { fill($_, $values) } @$value] if ref $value eq 'ARRAY';
    return $value if !defined $value || ref $value || JSON::PP->new->allow_nonref->encode($value) !~ /^"/;
    $value =~ s/<key:(\w+)>/slurp_file("$values->{dir}\/$1.pem")/ge;
    $value =~ s/<([a-z_]+)>/$values->{$1} \/\/ "<$1>"/ge;
    return $value;
}

# For the server. In the second round the tokens that are stored now have to come, and a 503 is the answer.
sub case_script
{
    my ($case, $url, $dir, $round) = @_;
    my $values    = values_of($case, $url, $dir);
    my @exchanges = @{ $case->{exchanges} };
    $values->{presented} = presented($case, $values, $round);
    if ($round == 2)
    {
        my $again = (expected_of($case))->{again};
        @exchanges = $again eq 'asked' && @exchanges ? ({ request => $exchanges[-1]{request}, answer => { status => 503 } }) : ();
    }
    return {
        client_id => $values->{client_id}, client_secret => fill($case->{client_secret} // 'obviously-fake-secret', $values),
        values => $values, exchanges => \@exchanges
    };
}

# The SQL that makes its provider, and that stores its credential.
sub case_statements
{
    my ($case, $url, $dir) = @_;
    my $values  = values_of($case, $url, $dir);
    my %options = (token_endpoint => '<url>/token', $case->{tls} ? (ca_file => '<dir>/ca.crt') : (), %{ $case->{options} // {} });
    my $options = fill(\%options, $values);
    my $secret  = exists $case->{client_secret} ? fill($case->{client_secret}, $values) : 'obviously-fake-secret';
    my $former  = fill($case->{previous_client_secret}, $values);
    my $name    = literal($case->{name});
    my $create  = sprintf('SELECT token_refresh.create_provider(%s, %s, %s, %s)', $name, literal($values->{client_id}), literal($former // $secret), literal(json($options)));
    my $alter   = defined $former ? sprintf('SELECT token_refresh.alter_provider(%s, %s)', $name, literal(json({ client_secret => $secret }))) : ();
    my $stored = fill($case->{stored} // { access_token => '<old_access>', refresh_token => '<old_refresh>', expires_in => 600 }, $values);
    my $store  = sprintf(q{SELECT token_refresh.store_credential(%s, 'subject', %s)}, $name, literal(json($stored)));
    utf8::encode($_) for grep { defined } $create, $alter, $store;
    return { create => $create, alter => $alter, store => $store };
}

# ---- what is expected, and what was got

# Completed: what a row does not say is as the textbook has it.
sub expected_of
{
    my ($case) = @_;
    my %said = %{ $case->{expect} // {} };
    my %expected;
    if (defined $said{failure})
    {
        my $reauth = $said{failure} eq 'reauth';
        %expected = (
            access_token => 'old', refresh_token => 'kept', expires_in => 600,
            again  => $reauth ? 'reauth' : $said{failure} =~ /rate_limited|too_early/ ? 'later' : 'asked',
            events => [($reauth ? 'needs_reauth' : 'refresh_failed') . "/$said{failure}"]);
    }
    else
    {
        %expected = (failure => '', access_token => 'new', refresh_token => 'kept', expires_in => 3600, events => ['refreshed'], again => 'asked');
    }
    $expected{status} = { reauth => 'needs_reauth', client_config => 'error' }->{ $said{failure} // '' } // 'connected';
    return { token_type => 'Bearer', scope => undef, captured => undef, secondary => {}, refresh_expires_in => undef, warning => '', message => '', tolerance => 20, %expected, %said };
}

sub show { my ($value) = @_; return defined $value ? JSON::PP->new->utf8->canonical->allow_nonref->encode($value) : 'nothing'; }

sub near { my ($expected, $got, $tolerance) = @_; return defined $expected ? defined $got && abs($got - $expected) <= $tolerance : !defined $got; }

# got: {failure, message, status, access_token, expires_in, ..., requests, requests_again, failure_again}, see 080_dialects.t.
# Returns what differs, as a list of texts.
sub compare_case
{
    my ($case, $url, $dir, $got) = @_;
    my $values   = values_of($case, $url, $dir);
    my $expected = expected_of($case);
    my @wrong;
    my $differ = sub { my ($field, $e, $g) = @_; push @wrong, "$field is " . show($g) . ', not ' . show($e); };
    my @requests = @{ $got->{requests} };
    push @wrong, map { "the request: $_" } map { @$_ } @requests;
    $differ->('the number of requests', scalar @{ $case->{exchanges} }, scalar @requests) if @requests != @{ $case->{exchanges} };

    for my $field (qw(failure status token_type scope captured))
    {
        my $e = fill($expected->{$field}, $values);
        $differ->($field, $e, $got->{$field}) if show($e) ne show($got->{$field});
    }
    my %token = (new => $values->{access}, old => $values->{old_access}, none => undef);
    my $token = exists $token{ $expected->{access_token} } ? $token{ $expected->{access_token} } : $expected->{access_token};
    if (ref $token) { $differ->('access_token', $expected->{access_token}, $got->{access_token}); }
    elsif (defined $token && $token =~ s/^~//) { $differ->('access_token', $token, $got->{access_token}) if ($got->{access_token} // '') !~ /$token/; }
    else { $differ->('access_token', $token, $got->{access_token}) if show($token) ne show($got->{access_token}); }

    for my $field (qw(expires_in refresh_expires_in))
    {
        $differ->($field, $expected->{$field}, $got->{$field}) unless near($expected->{$field}, $got->{$field}, $expected->{tolerance});
    }
    my $due = $expected->{due};
    if ($due) { $differ->('due', $due, $got->{due}) unless defined $got->{due} && $got->{due} >= $due->[0] && $got->{due} <= $due->[1]; }
    for my $field (qw(warning message))
    {
        my $pattern = $expected->{$field};
        next if $field eq 'message' && $expected->{failure} ne '' && $pattern eq '';
        $differ->($field, $pattern, $got->{$field}) if $pattern eq '' ? $got->{$field} ne '' : $got->{$field} !~ /$pattern/;
    }
    $differ->('events', $expected->{events}, $got->{events}) if show($expected->{events}) ne show($got->{events});
    my $secondary = fill($expected->{secondary}, $values);
    $differ->('secondary', $secondary, $got->{secondary}) if show($secondary) ne show($got->{secondary});

    # The second refresh shows which token is stored.
    my @again = @{ $got->{requests_again} };
    push @wrong, map { "the second refresh: $_" } map { @$_ } @again;
    my $again = $expected->{again} eq 'asked' && @{ $case->{exchanges} } ? 1 : 0;
    $differ->('the number of requests of the second refresh', $again, scalar @again) if @again != $again;
    return @wrong;
}

1;
