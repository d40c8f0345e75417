# SPDX-License-Identifier: Apache-2.0
# Restarts Tomcats in turn, in steps that do not wait, so that its caller can go on with requests.
#
#   my $roll = XB::Roller::roller(
#       tomcats => [$site->tomcats],
#       leave => sub ($tomcat) { ...; return sub { true: it may be stopped } },
#       back => sub ($tomcat, $seconds) { puts it into service again });
#   $roll->()                    # to be called again and again; true: all have been restarted
package XB::Roller;
use v5.36;
use Time::HiRes qw(time);

sub roller (%do)
{
    my @tomcats = @{$do{tomcats}};
    my ($tomcat, $begun, $has_left);
    my %next = (
        begin => sub {
            $tomcat = shift @tomcats // return 'done';
            $begun = time;
            $has_left = $do{leave}->($tomcat);
            return 'leave';
        },
        leave => sub {
            return if !$has_left->();
            $tomcat->proc->signal('TERM');
            return 'stop';
        },
        stop => sub {
            return if $tomcat->proc->alive;
            $tomcat->begin;
            return 'start';
        },
        start => sub {
            return if !$tomcat->is_ready;
            $do{back}->($tomcat, time - $begun);
            return 'begin';
        },
        done => sub { return });
    my $state = 'begin';
    return sub {
        $state = $next{$state}->() // $state;
        return $state eq 'done';
    };
}

1;
