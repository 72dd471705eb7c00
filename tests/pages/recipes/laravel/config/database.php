<?php

return [
    'default' => 'sqlite',
    'connections' => ['sqlite' => ['driver' => 'sqlite', 'database' => database_path('database.sqlite'), 'prefix' => '']],
    'migrations' => 'migrations',
    'redis' => [
        'client' => 'phpredis',
        'default' => ['host' => '127.0.0.1', 'port' => env('REDIS_PORT', '6379'), 'database' => 0],
    ],
];
