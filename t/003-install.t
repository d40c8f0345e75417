# SPDX-License-Identifier: Apache-2.0
# make install puts three files below DESTDIR and nothing else; httpd takes them as Debian would.
use v5.36;
use Test::More;
use XB::Test;
use File::Find ();

my $t = XB::Test->new;
my $dest = $t->mkdir('dest');

sub installed ()
{
    my @found;
    File::Find::find(sub { push @found, $File::Find::name =~ s/^\Q$dest\E//r if -f }, $dest);
    return [ sort @found ];
}

my $said = `make install DESTDIR='$dest' 2>&1`;
is($?, 0, 'make install') or diag($said);
chomp(my ($modules, $etc, $sbin) = map { `apxs -q $_` } qw(LIBEXECDIR SYSCONFDIR SBINDIR));
my @own = map { "$etc/mods-available/xnat_balance.$_" } qw(conf load);
is_deeply(installed, [ sort @own, "$modules/mod_xnat_balance.so", "$sbin/xnat-balance-drain" ],
          'its files');

my ($load, $conf) = map { $t->slurp("$dest$etc/mods-available/xnat_balance.$_") } qw(load conf);
like($load, qr/^# Depends: .*\bproxy_balancer\b/m, 'a2enmod enables what it stands on');
$load =~ s{(LoadModule xnat_balance_module) }{$1 $dest};
my $h = $t->httpd(module => 0, start => 0);
my ($status, $output) = $h->configtest("$load\n$conf");
is($status, 0, 'httpd accepts both as they are installed') or diag($output);

$said = `make uninstall DESTDIR='$dest' 2>&1`;
is($?, 0, 'make uninstall') or diag($said);
is_deeply(installed, [], 'takes all away');

$t->finish;
