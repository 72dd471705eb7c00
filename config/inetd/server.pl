#!/usr/bin/perl
# A web server as inetd's "wait" has them: the listening socket is standard input, and the program accepts by itself.
use strict;
use warnings;

my $leaving = 0;
$SIG{TERM} = sub { $leaving = 1 };
STDIN->blocking(0);    # one connection wakes several workers, and one of them gets it

until ($leaving) {
    vec(my $ready = '', 0, 1) = 1;
    select($ready, undef, undef, 1) > 0 or next;    # a TERM ends the wait
    accept(my $client, STDIN) or next;
    while (defined(my $line = <$client>)) { last if $line eq "\r\n" }
    my $body = "$$ $ENV{ROTAD_GENERATION} inetd\n";
    print $client "HTTP/1.0 200 OK\r\nContent-Length: ", length $body, "\r\nConnection: close\r\n\r\n$body";
}
