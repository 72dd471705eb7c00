//! Programs that take their sockets by other variables than LISTEN_FDS: those of Server::Starter and of Einhorn.

mod support;

use std::path::Path;
use support::{Site, alone, need};

#[test]
fn a_program_of_server_starter_takes_the_socket() {
    let starlet = Path::new("/usr/share/perl5/Starlet.pm").exists();
    if !need::program("plackup") || !need("Starlet", starlet) {
        return;
    }
    let _alone = alone();
    let mut site = Site::new(
        "[listen.http]\naddress = \"127.0.0.1:@PORT@\"
         [pool.web]\ncommand = [\"plackup\", \"-s\", \"Starlet\", \"-E\", \"deployment\",
                    \"--max-workers\", \"2\", \"app.psgi\"]
         count = 2\nlisten = \"http\"
         env = { SERVER_STARTER_PORT = \"{addr:http}={fd:http}\", SERVER_STARTER_GENERATION = \"{generation}\" }\n",
    );
    site.write(
        "app.psgi",
        "sub {
    my $body = \"$$ $ENV{SERVER_STARTER_GENERATION} hello\";
    [200, ['Content-Type' => 'text/plain', 'Content-Length' => length $body], [$body]];
};
",
    );
    site.run();
    site.await_ready();
    let rolled = site.roll_under_load(&["web"]);
    rolled.assert_nothing_lost(100);
    site.stop_politely(60);
}

/// What the client libraries of Einhorn read: the number of sockets, and one descriptor each.
#[test]
fn a_program_of_einhorn_takes_the_socket() {
    if !need::program("python3") {
        return;
    }
    let _alone = alone();
    let mut site = Site::new(
        "[listen.http]\naddress = \"127.0.0.1:@PORT@\"
         [pool.web]\ncommand = [\"sh\", \"-c\", \"EINHORN_MASTER_PID=$PPID exec python3 server.py\"]
         count = 2\nlisten = \"http\"
         env = { EINHORN_FD_COUNT = \"1\", EINHORN_FD_0 = \"{fd:http}\" }\n",
    );
    site.write(
        "server.py",
        "import os, signal, socket
assert os.environ['EINHORN_MASTER_PID'] == str(os.getppid())
fds = [int(os.environ[f'EINHORN_FD_{n}']) for n in range(int(os.environ['EINHORN_FD_COUNT']))]
listener = socket.socket(fileno=fds[0])
listener.setblocking(False)
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
import select
while not ending:
    if not select.select([listener], [], [], 0.05)[0]: continue
    try: client, _ = listener.accept()
    except BlockingIOError: continue
    client.setblocking(True)
    client.recv(4096)
    body = f'{os.getpid()} {os.environ[\"ROTAD_GENERATION\"]} hello'
    client.sendall(f'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}'.encode())
    client.close()
",
    );
    site.run();
    site.await_ready();
    let rolled = site.roll_under_load(&["web"]);
    rolled.assert_nothing_lost(100);
    site.stop_politely(60);
}
