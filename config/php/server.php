<?php
// The socket is descriptor 3. stream_socket_accept() returns at TERM, since the handler does not restart it.
pcntl_async_signals(true);
$stop = false;
pcntl_signal(SIGTERM, function () use (&$stop) { $stop = true; }, false);
$listener = fopen('php://fd/3', 'r+');
stream_set_blocking($listener, false);             // when a sibling takes the connection, wait on, but not in accept(2)
while (!$stop) {
    $client = @stream_socket_accept($listener, 1);
    if ($client === false) {
        continue;                                  // TERM, a second without a client, or a sibling took it
    }
    stream_set_timeout($client, 5);
    while (($line = fgets($client)) !== false && rtrim($line) !== '');
    $body = getmypid() . ' ' . getenv('ROTAD_GENERATION') . " php\n";
    fwrite($client, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " . strlen($body)
        . "\r\nConnection: close\r\n\r\n" . $body);
    fclose($client);
}
