<?php
// Fetches jobs from a list in Redis. It exits with 0 after JOBS jobs, and at TERM after its current job.

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

// Not a command that waits in Redis (BLPOP): a job that it hands out at the moment of TERM would have to be run too.
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
