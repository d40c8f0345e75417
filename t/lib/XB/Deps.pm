# SPDX-License-Identifier: Apache-2.0
# Finds the programs that scripts/deps found or fetched: XB::Deps->path('memcached'), or it dies.
package XB::Deps;
use v5.36;
use Cwd ();
use File::Basename ();

my $root = Cwd::abs_path(File::Basename::dirname(__FILE__) . '/../../..');
my %path;

sub root ($class) { return $root }

sub path ($class, $tool)
{
    return $path{$tool} //= do {
        my $found = `'$root/scripts/deps' path '$tool'`;
        chomp $found;
        $found ne '' ? $found : die "$tool not found; scripts/deps check gets it\n";
    };
}

1;
