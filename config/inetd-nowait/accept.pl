#!/usr/bin/perl
# accept.pl PROGRAM ARGUMENT…: starts it for each connection, which is its standard input and output, as inetd's "nowait"
# does. On TERM it takes no more connections, and waits for those that are being served.
use strict;
use warnings;
use POSIX 'WNOHANG';

my $most = 100;     # processes at a time; further connections wait in the listener's queue
my ($leaving, $running) = (0, 0);
$SIG{TERM} = sub { $leaving = 1 };
$SIG{CHLD} = sub { };    # ends the wait
STDIN->blocking(0);      # one connection wakes several workers, and one of them gets it

until ($leaving) {
    $running-- while waitpid(-1, WNOHANG) > 0;
    vec(my $ready = '', 0, 1) = $running < $most ? 1 : 0;
    select($ready, undef, undef, 1) > 0 or next;
    accept(my $client, STDIN) or next;
    my $pid;
    select(undef, undef, undef, 0.1) until defined($pid = fork);    # no memory or process left: try again
    if ($pid) { $running++; next }
    $SIG{$_} = 'DEFAULT' for qw(TERM CHLD);
    open STDIN,  '<&', $client or die $!;
    open STDOUT, '>&', $client or die $!;
    close $client;
    exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\n";
}
close STDIN;
1 until waitpid(-1, 0) < 0 && $!{ECHILD};
