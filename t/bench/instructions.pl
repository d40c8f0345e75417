#!/usr/bin/env perl
# SPDX-License-Identifier: Apache-2.0
# Instructions in user space that a sticky request on a kept-alive connection costs a proxy, with
# lbmethod=bytraffic and with the module, counted by callgrind:
#   perl -It/lib t/bench/instructions.pl [requests]
# One process; what its threads had done before the requests is not counted. The module's own threads
# are told apart by what they run.
use v5.36;
use XB::Test;
use XB::Bench;

my $REQUESTS = $ARGV[0] // 2000;
my $SESSIONS = 50;
my $t = XB::Test->new;
my $bench = XB::Bench->new($t);

# Own instructions by function and object of one thread's dump.
sub parse ($file)
{
    my (%name, %self, $fn, $ob, $call);
    open my $fh, '<', $file or die "$file: $!";
    while (<$fh>) {
        if (/^(c?fn|c?ob)=\((\d+)\)(?: (.*))?/) {
            my ($what, $id, $text) = ($1, $2, $3);
            my $names = $name{ $what =~ s/^c//r } //= {};
            $names->{$id} = $text =~ s{.*/|'\d+$}{}gr if defined $text;
            $fn = $names->{$id} if $what eq 'fn';
            $ob = $names->{$id} if $what eq 'ob';
        }
        elsif (/^calls=/) { $call = 1 }
        elsif (/^[-+*\d]\S* (\d+)$/) {
            $self{$ob}{$fn} += $1 if !$call;
            $call = 0;
        }
    }
    return \%self;
}

sub total ($self, @objects)
{
    my $sum = 0;
    for my $ob (@objects ? @objects : keys %$self) {
        $sum += $_ for values %{$self->{$ob} // {}};
    }
    return $sum;
}

sub dump_counts ($h, $valgrind)
{
    my $p = $t->spawn(name => 'control', cmd => [ 'callgrind_control', '-d', $valgrind->pid ]);
    wait_for { !$p->alive } 60, 'callgrind to write its counts';
    return;
}

# others: each request is another session's. small: see XB::Bench.
sub count ($name, $method, %opt)
{
    my ($others, $small) = delete @opt{qw(others small)};
    my $h = $bench->proxy($method, name => $name, threads => 4, start => 0, %opt);
    my $out = $t->path("$name.callgrind");
    my $p = $t->spawn(name => "valgrind-$name", timeout => 120, cmd => [
        'valgrind', '-q', '--tool=callgrind', '--separate-threads=yes', "--callgrind-out-file=$out",
        XB::Deps->path('apache2'), '-X', '-d', $h->{root}, '-f', $h->{conf_file} ],
        ready => sub ($p) { $t->listening($h->port) });
    $bench->remember($h, 1, $SESSIONS);
    my $sock = $bench->connect($h);
    my $text = sub ($n) {
        my $cookie = $bench->cookie(1 + ($others ? $n % $SESSIONS : 0));
        return $bench->request([$cookie], small => $small);
    };
    $bench->ask($sock, 2 * $SESSIONS, $text);
    dump_counts($h, $p);
    $bench->ask($sock, $REQUESTS, $text);
    dump_counts($h, $p);
    close $sock;
    $p->stop('TERM', 60);
    return figures(map { parse($_) } glob "$out.2-*");
}

# The module's own threads: what they run, they run in its name.
sub is_own ($thread)
{
    my $f = $thread->{'mod_xnat_balance.so'} // {};
    return grep { /^(?:run|work|watch|xnat_tick_run|xnat_sentinel_run)\b/ } keys %$f;
}

# Instructions per request: all but those of the module's threads, by object and function; and those.
sub figures (@threads)
{
    my (%by, $own);
    for my $th (@threads) {
        if (is_own($th)) {
            $own += total($th) / $REQUESTS;
            next;
        }
        for my $ob (keys %$th) {
            $by{$ob}{$_} += $th->{$ob}{$_} / $REQUESTS for keys %{$th->{$ob}};
        }
    }
    my $module = $by{'mod_xnat_balance.so'} // {};
    my %mover = map { $_ => $module->{$_} }
        grep { /^(?:xb_store|xb_msm|xnat_(?:move|tick|choose|steps|probe|release|rescue|jmx))/ } keys %$module;
    return { by => \%by, all => total(\%by), module => total({ module => $module }),
             mover => total({ mover => \%mover }), own => $own // 0 };
}

# What the module costs, by function: its own, and what others do more or less because of it.
sub differences ($less, $more)
{
    my %d;
    for my $by ([ $less->{by}, -1 ], [ $more->{by}, 1 ]) {
        for my $ob (keys %{$by->[0]}) {
            $d{"$_ ($ob)"} += $by->[1] * $by->[0]{$ob}{$_} for keys %{$by->[0]{$ob}};
        }
    }
    my @sorted = sort { abs $b->[1] <=> abs $a->[1] } map { [ $_, $d{$_} ] } keys %d;
    return @sorted[0 .. ($#sorted < 24 ? $#sorted : 24)];
}

my %click = (stock => count('click-stock', 'bytraffic'), plain => count('click-plain', 'xnat'),
             moves => count('click-moves', 'xnat', moves => 1),
             others => count('click-others', 'xnat', moves => 1, others => 1));
my %small = (stock => count('small-stock', 'bytraffic', small => 1),
             moves => count('small-moves', 'xnat', moves => 1, small => 1));

my $line = "%-44s %8s %8s %8s %8s %8s\n";
printf $line, "instructions per request", 'all', 'more', 'module', 'mover', 'threads';
for ([ 'bytraffic', \%click, 'stock' ], [ 'xnat', \%click, 'plain' ],
     [ 'xnat with a store, moves on', \%click, 'moves' ],
     [ 'the same, each request of another session', \%click, 'others' ],
     [ 'bytraffic, the least request', \%small, 'stock' ], [ 'xnat, moves on', \%small, 'moves' ]) {
    my ($name, $kind, $f) = ($_->[0], $_->[1], $_->[1]{$_->[2]});
    printf $line, $name, map({ sprintf '%.0f', $_ } $f->{all}),
        sprintf('%+.2f %%', 100 * ($f->{all} / $kind->{stock}{all} - 1)),
        map { sprintf '%.0f', $_ } @{$f}{qw(module mover own)};
}
say "module: in the module's own code. mover: of that, code of the mover and the store.";
say "threads: what the module's threads did meanwhile; grows with time, not with requests.";
say "The most of the difference between bytraffic and moves on, by function:";
printf "%8.0f  %s\n", @{$_}[ 1, 0 ] for differences(@click{qw(stock moves)});
$t->shut_down;
