<?php

namespace App\Http;

class Kernel extends \Illuminate\Foundation\Http\Kernel
{
}
