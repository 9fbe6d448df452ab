# examples/signin, run as it is, and browsers that visit it.
#
#   my ($app_port, $app_url) = BrowserTest::new_address();
#   my $app     = BrowserTest::App->start($port, APP_URL => ..., PGHOST => ...);   # $app->log, $app->stop
#   my $browser = BrowserTest::Browser->start;
#   my $alice   = $browser->visitor('alice');
#   my $page    = $alice->open("$app_url/");                # {url, status, title, text}
#   $page = $alice->press('Sign in');
package BrowserTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);
use TokenRefreshTest;

my $support_dir = dirname(abs_path(__FILE__));
our $app_dir     = abs_path("$support_dir/../../examples/signin");
our $browser_dir = "$support_dir/browser";

# The first that runs. Ubuntu's is a snap, which does not start without a home below /home.
sub chromium
{
    for my $name (grep { defined } $ENV{CHROMIUM}, qw(chromium chromium-browser google-chrome))
    {
        my ($path) = map { chomp; $_ } `command -v '$name' 2>/dev/null` or next;
        return $path if (`timeout 30 '$path' --version 2>/dev/null` // '') =~ /\d+\.\d+/;
    }
    return;
}

# Why this cannot be run here; undef if it can.
sub lacking
{
    return 'node is missing' if system('node -e "" >/dev/null 2>&1') != 0;
    return 'express and pg are not installed' unless -d "$app_dir/node_modules";
    return 'playwright-core is not installed' unless -d "$browser_dir/node_modules";
    return chromium() ? undef : 'chromium is missing';
}

# A port for the application, and its URL. By its name it is another site than the provider, whose URL is an address.
sub new_address
{
    my $port = PostgreSQL::Test::Cluster::get_free_port();
    return ($port, "http://localhost:$port");
}

package BrowserTest::App;

# %env: what it reads from its environment.
sub start
{
    my ($class, $port, %env) = @_;
    my $self = bless { file => PostgreSQL::Test::Utils::tempdir() . '/app.log' }, $class;
    local %ENV = (%ENV, PORT => $port, %env);
    delete local @ENV{qw(PGOPTIONS PGAPPNAME)};
    $self->{run} = IPC::Run::start([ 'node', 'server.mjs' ], '<', '/dev/null', '>', $self->{file}, '2>&1',
        init => sub { chdir $BrowserTest::app_dir or die "cannot change to $BrowserTest::app_dir: $!"; });
    for (my $attempt = 0; $self->log !~ /^listening on port $port$/m; $attempt++)
    {
        die 'the application does not start: ' . $self->log if $attempt > 600 || !$self->{run}->pumpable;
        Time::HiRes::usleep(50_000);
    }
    return $self;
}

# What it has written to its standard output and error.
sub log { return PostgreSQL::Test::Utils::slurp_file($_[0]{file}); }

sub stop
{
    my ($self) = @_;
    my $run = delete $self->{run} or return;
    $run->signal('TERM');
    # It ends by the signal.
    eval { $run->finish };
    return;
}

sub DESTROY { local ($?, $@, $!); $_[0]->stop; }

# browser/driver.mjs; its first lines say what the calls do.
package BrowserTest::Browser;
our @ISA = ('TokenRefreshTest::Server');

sub start
{
    my ($class) = @_;
    local $ENV{CHROMIUM} = BrowserTest::chromium();
    return $class->new('http', 'node', "$BrowserTest::browser_dir/driver.mjs");
}

sub visitor { my ($self, $name) = @_; return bless { browser => $self, name => $name }, 'BrowserTest::Visitor'; }

package BrowserTest::Visitor;

sub call
{
    my ($self, $command, %parameters) = @_;
    return $self->{browser}->call(POST => $command, { visitor => $self->{name}, %parameters });
}

sub open { my ($self, $url) = @_; return $self->call('/open', url => $url); }

sub fill { my ($self, $label, $text) = @_; $self->call('/fill', label => $label, text => $text); return; }

sub press { my ($self, $name) = @_; return $self->call('/press', name => $name); }

# Presses a button, and keeps the browser from following to a URL like the pattern, which is returned.
sub catch { my ($self, $name, $pattern) = @_; return $self->call('/catch', name => $name, pattern => $pattern)->{url}; }

sub cookies { return $_[0]->call('/cookies')->{cookies}; }

sub forget_cookies { $_[0]->call('/forget'); return; }

1;
