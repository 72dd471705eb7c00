<?php

namespace App\Jobs;

use Illuminate\Bus\Queueable;
use Illuminate\Contracts\Queue\ShouldQueue;

class Resize implements ShouldQueue
{
    use Queueable;

    public function __construct(public string $name)
    {
    }

    public function handle(): void
    {
        echo "resized {$this->name}\n";
    }
}
