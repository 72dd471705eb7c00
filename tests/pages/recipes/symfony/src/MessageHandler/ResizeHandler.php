<?php

namespace App\MessageHandler;

use App\Message\Resize;
use Symfony\Component\Messenger\Attribute\AsMessageHandler;

#[AsMessageHandler]
final class ResizeHandler
{
    public function __invoke(Resize $message): void
    {
        echo "resized {$message->name}\n";
    }
}
