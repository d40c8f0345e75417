# SPDX-License-Identifier: Apache-2.0
# Runs of t/bench/wire.pl, kept in a file, one JSON line each, so that a report can be made of
# several invocations: those of the same program only.
#
#   my $r = XB::Runs->new('build/bench/runs.jsonl');
#   $r->add({round => , scene => , front => , ...figures})     # is on disk when it returns
#   $r->of('noisy')              # { front => [runs] }
#   $r->others                   # how many in the file are of another program
#   $r->cell('p99', @runs)       # median (least to most), in words
#   $r->ratios('p99', 'bytraffic', @runs)   # to what that front end had in the same round
#   median(@x)
package XB::Runs;
use v5.36;
use Digest::MD5 ();
use Exporter 'import';
use File::Basename ();
use File::Path ();
use JSON::PP ();
use List::Util qw(max min);
use POSIX ();
use XB::Deps ();

our @EXPORT_OK = qw(median);

# What a run depends on. Not how it is told of.
my @PROGRAM = ('build/mod_xnat_balance.so', 't/tomcat/src/*.java',
               map { "t/lib/XB/$_.pm" } qw(Client Front Httpd Msm Roller Scene Site Tomcat Users));

sub _program ()
{
    my $md5 = Digest::MD5->new;
    for my $file (map { glob } map { XB::Deps->root . "/$_" } @PROGRAM) {
        open my $fh, '<:raw', $file or die "$file: $!\n";
        $md5->addfile($fh);
    }
    return $md5->hexdigest;
}

sub new ($class, $file)
{
    my $self = bless {file => $file, program => _program(), runs => [], others => 0}, $class;
    if (open my $fh, '<', $file) {
        for (<$fh>) {
            my $run = JSON::PP::decode_json($_);
            my $is_ours = $run->{program} eq $self->{program};
            $is_ours ? push @{$self->{runs}}, $run : $self->{others}++;
        }
    }
    return $self;
}

sub add ($self, $run)
{
    $run = {%$run, program => $self->{program},
            at => POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime)};
    push @{$self->{runs}}, $run;
    File::Path::make_path(File::Basename::dirname($self->{file}));
    open my $fh, '>>', $self->{file} or die "$self->{file}: $!\n";
    print $fh JSON::PP->new->canonical->encode($run), "\n";
    close $fh or die "$self->{file}: $!\n";
    return;
}

sub others ($self) { return $self->{others} }

sub of ($self, $scene)
{
    my %of;
    push @{$of{$_->{front}}}, $_ for grep { $_->{scene} eq $scene } @{$self->{runs}};
    return \%of;
}

# ---- figures

sub median (@x)
{
    @x = sort { $a <=> $b } @x;
    return @x ? ($x[$#x / 2] + $x[@x / 2]) / 2 : undef;
}

sub _spread ($digits, @x)
{
    my ($median, $least, $most) = map { sprintf "%.${digits}f", $_ } median(@x), min(@x), max(@x);
    return @x > 1 ? "$median ($least to $most)" : $median;
}

# What never came about is said.
sub cell ($self, $key, @runs)
{
    my @x = grep { defined } map { $_->{$key} } @runs;
    my $never = @runs - @x;
    return '-' if !@runs;
    return "never in $never" if !@x;
    my $is_count = !grep { $_ != int } @x, median(@x);
    return _spread(max(@x) < 20 && !$is_count ? 1 : 0, @x) . ($never ? ", never in $never" : '');
}

sub ratios ($self, $key, $base, @runs)
{
    my %base = map { ("$_->{scene} $_->{round}" => $_->{$key}) }
        grep { $_->{front} eq $base } @{$self->{runs}};
    my @x = map { $_->[0] / $_->[1] } grep { defined $_->[0] && $_->[1] }
        map { [$_->{$key}, $base{"$_->{scene} $_->{round}"}] } @runs;
    return @x ? _spread(2, @x) : '-';
}

1;
