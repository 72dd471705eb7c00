<?php

use App\Jobs\Resize;
use Illuminate\Support\Facades\Bus;
use Illuminate\Support\Facades\Route;

Route::get('/', static function () {
    Bus::dispatch(new Resize('cat.jpg'));

    return "sent\n";
});
