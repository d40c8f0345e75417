# SPDX-License-Identifier: Apache-2.0
# The manual: its links lead somewhere, its words for refusals and decisions are the code's, and
# its defaults are those of the annotated configuration.
use v5.36;
use Test::More;
use File::Basename ();
use File::Spec ();

sub text ($file)
{
    open my $fh, '<', $file or return '';
    local $/;
    return <$fh>;
}

# What GitHub makes of headings.
sub anchors ($text)
{
    $text =~ s/^```.*?^```//gms;
    my %seen;
    return map {
        my $a = lc s/[^\w\s-]//gr =~ s/\s/-/gr;
        my $n = $seen{$a}++;
        ($n ? "$a-$n" : $a) => 1;
    } $text =~ /^#+\s+(.*?)\s*$/mg;
}

my @manual = (glob('*.md'), glob 'docs/*.md');
cmp_ok(scalar @manual, '>', 8, 'the manual is found');

my @dead;
for my $file (@manual) {
    my $prose = text($file) =~ s/^```.*?^```//gmsr;
    for my $link ($prose =~ /\]\(([^)\s]+)\)/g) {
        next if $link =~ /^https?:/;
        my ($path, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
        my $to = $path eq '' ? $file
                             : File::Spec->catfile(File::Basename::dirname($file), $path);
        push @dead, "$file: $link\n" if !-e $to;
        my %there = $to =~ /\.md$/ && -e $to ? anchors(text($to)) : ();
        push @dead, "$file: $link (no such heading)\n" if defined $anchor && !$there{$anchor};
    }
}
ok(!@dead, 'each link leads somewhere') or diag(@dead);

my $words = text('src/xb_reason.c');
my ($decisions) = $words =~ /decisions\[\w+\] = \{(.*?)\};/s;
my ($refusals) = $words =~ /refusals\[\w+\] = \{(.*?)\};/s;
my $operations = text('docs/operations.md');
my $reference = text('docs/directives.md');
sub missing ($text, $list) { return grep { $text !~ /`\Q$_\E`/ } $list =~ /"([^"]+)"/g }
is_deeply([ missing($operations, $refusals) ], [], 'docs/operations.md explains each refusal');
is_deeply([ missing($reference, $decisions) ], [], 'docs/directives.md explains each decision');

my $glue = join '', map { text($_) } glob 'src/xnat_*.c';
my %said = map { $_ => 1 } $glue =~ /xnat_request_say\(\s*\w+,\s*XB_\w+,\s*(.*?)\);/gs;
my @reasons = map { /"([a-z-]+)"/g } keys %said;
my %gate = map { $_ => 1 } $glue =~ /\brefuse\(\w+, "([a-z-]+)"/g;
my @gate = sort keys %gate;
is_deeply(\@gate, [ 'gate-crowded', 'gate-timeout', 'not-taken-over' ],
          "the gate's reasons are found in the code");
push @reasons, @gate;
cmp_ok(scalar @reasons, '>', 10, 'and all others');
is_deeply([ grep { $reference !~ /`\Q$_\E`/ } @reasons ], [],
          'and docs/directives.md has each');

my $source = join '', map { text($_) } glob 'mod_*.[ch] src/*.[ch]';
my %name = map { $_ => 1 } text('docs/architecture.md') =~ /`([a-z]\w*_\w+)(?:\(\))?`/g;
cmp_ok(scalar keys %name, '>', 20, 'docs/architecture.md names functions');
my @gone = grep { $source !~ /\b\Q$_\E/ && !-e "src/$_.c" && !-e "$_.c" } sort keys %name;
is_deeply(\@gone, [], 'which exist');

my %default = $reference =~ /^Default: `(XnatBalance\w+) (.*?)`/mg;
my %shipped = text('config/xnat_balance.conf') =~ /^#(XnatBalance\w+) (.*)$/mg;
cmp_ok(scalar keys %default, '>', 8, 'defaults are found');
is_deeply({ map { $_ => $shipped{$_} } keys %default }, \%default,
          'config/xnat_balance.conf shows the same defaults');

done_testing();
