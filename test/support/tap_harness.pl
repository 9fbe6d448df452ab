# usage: tap_harness.pl JOBS LIBDIR[:LIBDIR...] TEST...
#
# Runs TAP tests as prove does and ends with "N passed, M failed", counting the
# top-level test points. A script that ends badly without a failed point (it
# died, or ran another number of tests than planned) counts as one failure.
# Everything the scripts write to stderr is in their own logs already.
use strict;
use warnings;

use TAP::Harness;

my ($jobs, $libs, @tests) = @ARGV;
open(STDERR, '>', '/dev/null') or die "cannot open /dev/null: $!";
$| = 1;

my $harness = TAP::Harness->new({
    jobs  => $jobs,
    lib   => [ split /:/, $libs ],
    timer => 1,
});
my $result = $harness->runtests(@tests);

my ($passed, $failed) = (0, 0);
for my $parser ($result->parsers) {
    $passed += scalar($parser->passed);
    my $failures = scalar($parser->failed);
    $failures = 1 if !$failures && $parser->has_problems;
    $failed += $failures;
}
print "$passed passed, $failed failed\n";
exit($failed ? 1 : 0);
