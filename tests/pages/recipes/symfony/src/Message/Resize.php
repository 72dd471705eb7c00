<?php

namespace App\Message;

final class Resize
{
    public function __construct(public string $name)
    {
    }
}
