<?php
// Laravel of Debian's packages, in place of what Composer installs.
require_once '/usr/share/php/Illuminate/autoload.php';
spl_autoload_register(static function (string $class): void {
    if (strncmp($class, 'App\\', 4) === 0) {
        require dirname(__DIR__) . '/app/' . strtr(substr($class, 4), '\\', '/') . '.php';
    }
});
