<?php
header('Content-Type: text/plain');
$body = getmypid() . ' ' . getenv('ROTAD_GENERATION') . " php-fpm\n";
header('Content-Length: ' . strlen($body));
echo $body;
