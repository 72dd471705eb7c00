<?php
// A worker of a list in Redis. It ends with 0 after so many jobs, and at TERM after the job in hand.

pcntl_async_signals(true);
pcntl_signal(SIGTERM, function () use (&$leave) { $leave = true; });

$redis = stream_socket_client('tcp://' . getenv('REDIS'));
if (!$redis) {
    exit(1);
}
$manager = getenv('NOTIFY_SOCKET') ? stream_socket_client('udg://' . getenv('NOTIFY_SOCKET')) : STDOUT;
fwrite($manager, 'READY=1');

for ($jobs = 0; $jobs < getenv('JOBS') && !$leave;) {
    $name = call($redis, 'LPOP', 'jobs');
    if ($name === null) {
        usleep(100_000);                           // a TERM ends it
        continue;
    }
    fwrite($manager, "STATUS=resize $name");
    note("begins $name");
    usleep(100_000);                               // the work
    note("done $name");
    ++$jobs;
}

// Not one that waits at the server (BLPOP): what it hands out just when TERM comes has to be worked on, too.
function call($redis, string ...$words): ?string
{
    fwrite($redis, implode(' ', $words) . "\r\n");
    $length = (int) substr(fgets($redis), 1);
    return $length < 0 ? null : substr(stream_get_contents($redis, $length + 2), 0, -2);
}

function note(string $line): void
{
    file_put_contents('jobs.txt', "$line {$_SERVER['ROTAD_GENERATION']}\n", FILE_APPEND);
}
