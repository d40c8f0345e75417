# SPDX-License-Identifier: Apache-2.0
# A tool that is not there is named by make, with the Debian package that brings it, and
# nothing is built.
use v5.36;
use Test::More;
use File::Temp ();

sub found ($tool) { return (grep { -x } map { "$_/$tool" } split /:/, $ENV{PATH})[0] }

my $make = found('make');
my $build = File::Temp->newdir;

# What make says where there are only the tools that any Debian has, and these, which do nothing.
sub said ($target, @there)
{
    my $bin = File::Temp->newdir;
    for my $tool (qw(sh sed grep mkdir rm uname cat)) {
        symlink found($tool), "$bin/$tool" or die "$tool: $!";
    }
    for my $tool (@there) {
        open my $fh, '>', "$bin/$tool" or die "$tool: $!";
        print $fh "#!/bin/sh\nexit 0\n";
        close $fh;
        chmod 0755, "$bin/$tool";
    }
    local $ENV{PATH} = "$bin";
    delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS CC APXS CLANG)};
    my $said = `$make -j1 B='$build' $target 2>&1`;
    isnt($?, 0, join(' ', "make $target fails, with no tool", map { ('but', $_) } @there));
    return $said;
}

like(said('all'), qr/^gcc not found: apt-get install gcc$/m, 'the compiler is named');
like(said('all', 'gcc'), qr/^apxs not found: apt-get install apache2-dev$/m, 'apxs is named');
like(said('unit'), qr/^gcc not found: apt-get install gcc$/m, 'the compiler of the tests');
like(said('fuzz', 'gcc'), qr/^clang not found: apt-get install clang$/m, "the fuzzers' one");
like(said('model', 'gcc'), qr/^spin not found: apt-get install spin$/m, "the model's checker");
is_deeply([ glob "$build/*.so" ], [], 'no module was made');

done_testing();
