<?php
// Symfony of Debian's packages, in place of what Composer installs.
foreach (['Component/Dotenv', 'Component/Yaml', 'Component/Console', 'Component/Messenger', 'Component/Messenger/Bridge/Redis',
    'Bundle/FrameworkBundle'] as $part) {
    require_once "/usr/share/php/Symfony/$part/autoload.php";
}
spl_autoload_register(static function (string $class): void {
    if (strncmp($class, 'App\\', 4) === 0) {
        require dirname(__DIR__) . '/src/' . strtr(substr($class, 4), '\\', '/') . '.php';
    }
});
