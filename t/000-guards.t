# SPDX-License-Identifier: Apache-2.0
# Rules of the repository that a machine can check; they need no server.
use v5.36;
use Test::More;

my @files = split /\0/, `git ls-files -z`;
is($?, 0, 'git lists the files') or BAIL_OUT('the guards look at tracked files');
my @c = grep { /\.[ch]$/ } @files;
my @core = grep { m{^src/xb_\w+\.c$} } @c;
cmp_ok(scalar @core, '>', 0, 'core sources found');

sub text ($file)
{
    open my $fh, '<:raw', $file or return '';
    local $/;
    return <$fh> // '';
}

# Fails with all offenders at once, so that one run tells everything.
sub none ($what, @bad)
{
    ok(!@bad, $what) or diag(map { "  $_\n" } @bad);
    return;
}

sub lines_like ($pattern, @where)
{
    return map {
        my ($file, $n) = ($_, 0);
        map { $n++; /$pattern/ ? "$file:$n: $_" : () } split /\n/, text($file);
    } @where;
}

# ---- form

my @sources = grep { !/\.md$|^LICENSE$|^\.gitignore$|^t\/fuzz\/corpus\// } @files;
none('each source names its licence in its first lines',
     grep { text($_) !~ /\A(?:.*\n){0,2}.*SPDX-License-Identifier: Apache-2\.0/ } @sources);
none('no tab in C', lines_like(qr/\t/, @c));
none('no file of C over 600 lines',
     map { my $n = () = text($_) =~ /\n/g; $n > 600 ? "$_: $n" : () } @c);
none('nothing left to do later', lines_like(qr/\b(?:TO[D]O|FIX[M]E|XX[X])\b/, @sources));
none('no path of one machine',
     lines_like(qr#(?<![\w.}\$])/(?:work|root|farm)/|/tmp/[x]b/#, @files));
none('tests wait for conditions, never just so long',
     lines_like(qr/(?<![\w:>'"-])(?:u?sleep|nanosleep)\s*\(?\s*[\w\$.]|select\s*\(?\s*undef/,
                grep { m{^t/[^/]+\.t$|^t/unit/} } @files));

my @long;
for (`ctags -f - --languages=C --c-kinds=f --fields=+ne --sort=no @c`) {
    my ($name, $file, $line, $end) = /^(\w+)\t(\S+)\t.*\tline:(\d+).*\tend:(\d+)/ or next;
    push @long, "$file:$line: $name " . ($end - $line + 1) if $end - $line >= 60;
}
is($?, 0, 'ctags ran');
none('no function over 60 lines', @long);

# ---- layers

my %flags = map { $_ => `make -s show-$_` =~ s/ -MMD -MP|\n//gr } qw(CORE GLUE CC);
unlike($flags{CORE}, qr/apache|apr/, "the core is compiled without httpd's paths");
like($flags{GLUE}, qr/apache|httpd/, 'the glue with them');
none('the core includes only itself and libc',
     lines_like(qr/^\s*\#\s*include\s+
                   (?!"xb_|<(?:[a-z0-9_]+|sys\/[a-z]+|arpa\/inet|netinet\/\w+)\.h>)
                 |(?:\bhttpd|\bhttp_\w+|\bap_\w+|\bapr\w*|\blibmemcached\w*)\.h/x,
                grep { m{^src/xb_} } @c));
# Only the store's client, which waits for sockets, reads a clock of its own.
my $impure = qr/(?:m|c|re)alloc|free|v?f?printf|syslog|time|clock_gettime|gettimeofday
               |s?rand(?:om)?|getrandom/x;
none('the core neither allocates nor logs nor reads a clock nor draws random numbers',
     grep { $_ ne 'xb_store: clock_gettime' } map {
         my $unit = $_;
         !-e "build/plain/core/$unit.o" ? "$unit: not built" :
         map { "$unit: $_" } `nm -u build/plain/core/$unit.o` =~ /\bU ($impure)\b/g
     } map { m{(\w+)\.c$} } @core);
for my $header (grep { m{^src/.*\.h$|^mod_} && /\.h$/ } @c) {
    my $flags = $header =~ m{^src/xb_} ? $flags{CORE} : $flags{GLUE};
    my $compile = "$flags{CC} $flags -I. -Wno-unused -fsyntax-only -x c -";
    my $said = `echo '#include "$header"' | $compile 2>&1`;
    is($?, 0, "$header compiles alone") or diag($said);
}

is(join(' ', `nm -D --defined-only build/mod_xnat_balance.so` =~ /^\S+ [A-Z] (\S+)$/mg),
   'xnat_balance_module', 'the module exports its own symbol and no other');

# ---- names that other files must know

my (%code, @twice);
for my $file (grep { /^src\/|^mod_/ } @c) {
    for my $code (text($file) =~ /\bXB\((\d+)\)|"XB(\d+)/g) {
        push @twice, "XB$code in $file" if defined $code && $code{$code}++;
    }
}
none('a log code is four digits', grep { !/^\d{4}$/ } keys %code);
none('each log code is used once', @twice);

done_testing();
