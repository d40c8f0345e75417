# SPDX-License-Identifier: Apache-2.0
# Reports of measurements: runs are kept, those of another program are left out; medians, ratios of
# the same round, plots.
use v5.36;
use Test::More;
use XB::Test;
use XB::Plot;
use XB::Runs qw(median);

my $t = XB::Test->new;
my $file = $t->path('deep/down/runs.jsonl');
my $runs = XB::Runs->new($file);
my @p99 = ([1, bytraffic => 100], [1, xnat => 50], [2, bytraffic => 40], [2, xnat => 60],
           [3, xnat => 90]);
$runs->add({round => $_->[0], scene => 'steady', front => $_->[1], p99 => $_->[2], back => undef})
    for @p99;
is(median(1, 9, 2, 4), 3, 'the median of an even number is between the middle two');
is(median(), undef, '... of none is none');

my $again = XB::Runs->new($file);
my @xnat = @{$again->of('steady')->{xnat}};
is(@xnat, 3, 'runs are on disk');
is($again->cell('p99', @xnat), '60 (50 to 90)', 'median, least and most');
is($again->cell('back', @xnat), 'never in 3', 'what never came');
is($again->ratios('p99', 'bytraffic', @xnat), '1.00 (0.50 to 1.50)',
   'ratios are of the same round; the third has none');
is_deeply($again->of('noisy'), {}, 'no run of another scene');

my $text = $t->slurp($file);
$t->write('deep/down/runs.jsonl', $text =~ s/"program":"\w+"/"program":"older"/r);
my $mixed = XB::Runs->new($file);
is($mixed->others, 1, 'a run of another program is counted');
is(@{$mixed->of('steady')->{bytraffic}}, 1, '... and left out');

my $svg = $t->path('plot.svg');
XB::Plot::draw($svg, title => 'a < b & c', x_label => 's', y_label => 'ms', x_ticks => [0, 2, 4],
               marks => [[2, 'an event']], lines => [
    map { {name => "line $_", colour => '#c00', points => [[0, 10], [4, 100]]} } 1 .. 3]);
my $drawn = $t->slurp($svg);
like($drawn, qr/a &lt; b &amp; c/, 'names are escaped');
is(scalar(() = $drawn =~ /<polyline/g), 3, 'each line is drawn');
my %y = map { $_ => 1 } $drawn =~ /y="([\d.]+)"[^>]*>line \d</g;
is(keys %y, 3, '... and named where no other name stands');
$t->finish;
