# SPDX-License-Identifier: Apache-2.0
# Code, shipped configuration and manual name the same directives, log codes and nothing else. A file
# or a table that is not found is a failure: these checks must not fall silent.
use v5.36;
use Test::More;

sub text ($file)
{
    my $fh;
    if (!open $fh, '<', $file) {
        fail("$file is there");
        return '';
    }
    local $/;
    return <$fh>;
}

sub same ($what, $want, $got)
{
    my %want = map { $_ => 1 } @$want;
    my %got = map { $_ => 1 } @$got;
    my @lacks = grep { !$got{$_} } sort keys %want;
    my @extra = grep { !$want{$_} } sort keys %got;
    ok(!@lacks && !@extra, $what) or diag("lacks: @lacks\nunknown: @extra\n");
    return;
}

my $code = join '', map { text($_) } 'mod_xnat_balance.c', glob 'src/xnat_*.[ch]';

my %name = $code =~ /^#define\s+(\w+)\s+"(XnatBalance\w+)"/mg;
my @table = map { /^"(.*)"$/ ? $1 : $name{$_} // $_ } $code =~ /\bAP_INIT_\w+\(\s*("?\w+"?)/g;
cmp_ok(scalar @table, '>', 5, 'the command table is found');
is_deeply([ grep { !/^XnatBalance/ } @table ], [], 'and all its names are known');
same('config/xnat_balance.conf shows each directive, and only these', \@table,
     [ text('config/xnat_balance.conf') =~ /^\s*#?(XnatBalance\w+)\s/mg ]);
same('docs/directives.md has a section for each directive, and only these', \@table,
     [ text('docs/directives.md') =~ /^##+ `?(XnatBalance\w+)/mg ]);
like(text('config/xnat_balance.load'), qr/^LoadModule xnat_balance_module .*mod_xnat_balance\.so$/m,
     'config/xnat_balance.load loads the module');

my %logged = map { ("XB$_" => 1) } grep { defined } $code =~ /\bXB\((\d+)\)|"XB(\d+)/g;
cmp_ok(scalar keys %logged, '>', 0, 'log codes are found');
same('docs/operations.md lists each log code, and only these', [ keys %logged ],
     [ text('docs/operations.md') =~ /\b(XB\d{4})\b/g ]);

done_testing();
