# Runs an example (examples/NAME) as its reader would: by the commands of its README. The database and its owner have
# the names that the README gives them.
#
#   my $example = ExampleTest->new($node, 'vetassist', database => 'vetassist', VA_CLIENT_ID => 'test-client', ...);
#   $example->step('Try it');            # the ```sh blocks under "## Try it", a test point; returns what they print
#   $example->ran_all_steps;             # a test point: no ```sh block of the README was left out
package ExampleTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run ();
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $support_dir  = dirname(abs_path(__FILE__));
my $examples_dir = abs_path("$support_dir/../../examples");

# %option: database, owner (both by default the name), and the environment of the commands.
sub new
{
    my ($class, $node, $name, %env) = @_;
    my $database = delete $env{database} // $name;
    my $owner    = delete $env{owner}    // $database;
    my $self = bless {
        node => $node, name => $name, dir => "$examples_dir/$name", database => $database, owner => $owner, done => {},
        env => {
            PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => $database, PGAPPNAME => "example $name",
            PGOPTIONS => '-c client_min_messages=warning', PSQLRC => '/dev/null', %env },
    }, $class;
    $self->{readme} = slurp_file("$self->{dir}/README.md");
    for my $section (split /^## /m, $self->{readme})
    {
        my ($heading) = $section =~ /\A(.*)/;
        my @blocks = $section =~ /^```sh\n(.*?)^```/msg;
        $self->{steps}{$heading} = join('', @blocks) if @blocks;
    }
    return $self;
}

# %env: for this step only.
sub step
{
    my ($self, $heading, %env) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $commands = $self->{steps}{$heading} // die "the README of $self->{name} has no commands under \"$heading\"";
    $self->{done}{$heading} = 1;
    my ($status, $output, $errors) = $self->run_in_folder([ 'bash', '-euo', 'pipefail', '-c', $commands ], '', %env);
    is($status, 0, "README of $self->{name}: $heading") or diag($errors);
    return $output;
}

# The step cannot be run here.
sub leave_out { my ($self, $heading) = @_; $self->{done}{$heading} = 1; return; }

sub ran_all_steps
{
    my ($self) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    unlike(join('', values %{ $self->{steps} }), qr/psql .*-\w*U/, 'no command signs in as another role, which peer authentication refuses');
    return is(join(', ', grep { !$self->{done}{$_} } sort keys %{ $self->{steps} }), '', 'every command of the README was run');
}

# A test point: the ```sql blocks of the README are parts of the file. %defaults: what stands in them for a psql variable.
sub readme_quotes
{
    my ($self, $file, %defaults) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $sql = slurp_file("$self->{dir}/$file");
    $sql =~ s/:'\Q$_\E'/'$defaults{$_}'/g for keys %defaults;
    my @blocks = $self->{readme} =~ /^```sql\n(.*?)^```/msg;
    return ok(@blocks > 0 && !grep({ index($sql, $_) < 0 } @blocks), "the README shows what $file has");
}

# Runs a command in the example's folder; returns (status, standard output, standard error).
sub run_in_folder
{
    my ($self, $command, $input, %env) = @_;
    local %ENV = (%ENV, %{ $self->{env} }, %env);
    my ($output, $errors) = ('', '');
    my $dir = $self->{dir};
    my $timeout = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
    IPC::Run::run($command, '<', \$input, '>', \$output, '2>', \$errors,
        init => sub { chdir $dir or die "cannot change to $dir: $!"; }, $timeout);
    return ($? >> 8 || $?, $output, $errors);
}

# SQL as the superuser, and as the owner of the tables.
sub query
{
    my ($self, $sql) = @_;
    return $self->{node}->safe_psql($self->{database}, $sql);
}

sub owner_query
{
    my ($self, $sql) = @_;
    return $self->{node}->safe_psql($self->{database}, $sql, extra_params => [ '-U', $self->{owner} ]);
}

# A test point: the query comes to answer 't' within the time limit of the suite.
sub await
{
    my ($self, $sql, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok($self->{node}->poll_query_until($self->{database}, $sql), $what);
}

# A test point: what triggers the extension has put on the tables, by name; wanted are none.
sub no_trigger_left
{
    my ($self, @tables) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $list = join(', ', map { "'$_'::regclass" } @tables);
    return is($self->query("SELECT string_agg(tgname, ' ') FROM pg_trigger WHERE tgrelid IN ($list) AND NOT tgisinternal"),
        '', 'no trigger is left on the tables');
}

# Converts texts with hex_cipher.py under the environment's ENCRYPTION_KEY. $what: encrypt or decrypt.
sub hex_cipher
{
    my ($self, $what, @texts) = @_;
    return $self->convert([ 'python3', "$support_dir/hex_cipher.py", $what ], @texts);
}

# The same with a command of the example, such as [ 'node', 'encrypt.mjs' ].
sub convert
{
    my ($self, $command, @texts) = @_;
    my ($status, $output, $errors) = $self->run_in_folder($command, join('', map { "$_\n" } @texts));
    die "@$command: $errors" if $status != 0;
    return split /\n/, $output;
}

1;
