<?php
// A Gearman worker. On TERM it finishes its job, takes no other, and exits with 0.

pcntl_async_signals(true);
pcntl_signal(SIGTERM, function () use (&$leave) { $leave = true; });

$settings = parse_ini_file(__DIR__ . '/settings.ini');
$manager = getenv('NOTIFY_SOCKET') ? stream_socket_client('udg://' . getenv('NOTIFY_SOCKET')) : STDOUT;

$work = function (GearmanJob $job) use ($settings, $manager) {
    fwrite($manager, "STATUS=resize {$job->workload()}\n");
    note("begins {$job->workload()}");
    usleep(1000 * $settings['milliseconds']);      // the work
    note("done {$job->workload()}");
    fwrite($manager, "STATUS=waits for a job\n");
    return "done {$job->workload()}";
};

$worker = new GearmanWorker();
$worker->addServers(getenv('GEARMAN'));
$worker->addFunction('resize', $work);
if (!@$worker->ping('are you there?')) {
    fail($worker);
}
$worker->setTimeout(500);                          // without it, TERM does not end a work() that waits for a job
fwrite($manager, 'READY=1');

while (!$leave) {
    if (!@$worker->work() && $worker->returnCode() !== GEARMAN_TIMEOUT) {
        fail($worker);
    }
}

// rotad starts the worker again, with backoff.
function fail(GearmanWorker $worker): never
{
    fwrite(STDERR, "gearmand: {$worker->error()}\n");
    exit(1);
}

function note(string $line): void
{
    file_put_contents('jobs.txt', "$line {$_SERVER['ROTAD_GENERATION']}\n", FILE_APPEND);
}
