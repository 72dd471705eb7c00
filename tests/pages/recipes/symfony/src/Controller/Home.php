<?php

namespace App\Controller;

use App\Message\Resize;
use Symfony\Component\HttpFoundation\Response;
use Symfony\Component\Messenger\MessageBusInterface;

final class Home
{
    public function __invoke(MessageBusInterface $bus): Response
    {
        $bus->dispatch(new Resize('cat.jpg'));

        return new Response("sent\n");
    }
}
