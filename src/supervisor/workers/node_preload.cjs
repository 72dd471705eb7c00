// rotad's preload for Node 18 and newer, and for Deno: `node --require {preload:node} SCRIPT`, `deno run --require …`. The program
// needs no line of its own for rotad:
//
// - `server.listen(PORT)` takes the socket that rotad holds for that port (LISTEN_FDS, sd_listen_fds(3)); so does
//   `server.listen(PATH)` for a unix socket.
// - At TERM the process accepts no more connections, answers what still arrives on open ones with `Connection: close` for up to
//   two seconds, and closes those that are idle then. After that the program's own handler of SIGTERM, else of SIGINT, else of
//   the message "shutdown" (pm2) is called; without any, the process exits once every request is answered.
// - `process.send('ready')` (pm2's wait_ready) is READY=1 (sd_notify(3)).
//
// Only the process that rotad has started does this: neither its child processes nor its worker threads.
'use strict';

const ROTAD = '@ROTAD@';
const FIRST_FD = 3;
const GRACE = 2000; // milliseconds for requests that clients are sending at the moment of TERM
const LOOK = 25; // milliseconds between two looks whether every connection is closed
const MOST = 65535; // as many waiting connections as net.core.somaxconn allows: listen(2) sets them for every worker

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { isMainThread } = require('node:worker_threads');

// Servers on rotad's sockets, with the answers that are being made.
const servers = new Map();
let draining = false;

if (isMainThread) {
  if (process.env.LISTEN_PID === String(process.pid)) takeSockets(Number(process.env.LISTEN_FDS) || 0);
  if (process.env.NOTIFY_SOCKET && typeof process.send !== 'function') sendReady();
}

function takeSockets(count) {
  let sockets = null; // found out at the first listen()
  const listen = net.Server.prototype.listen;
  net.Server.prototype.listen = function (...args) {
    const wanted = address(args);
    if (!wanted) return listen.apply(this, args);
    sockets ??= Array.from({ length: count }, (_, index) => socketOf(FIRST_FD + index)).filter(Boolean);
    const at = indexOf(sockets, wanted);
    if (at < 0) {
      if (sockets.length > 0) tell(`listens on ${name(wanted)}, and rotad passed ${sockets.map(name).join(', ')}: it opens ${name(wanted)} itself, which only one worker can`);
      return listen.apply(this, args);
    }
    const [{ fd }] = sockets.splice(at, 1); // a descriptor can be used once
    serve(this);
    const callback = args[args.length - 1];
    const options = { fd, backlog: MOST };
    if (wanted.signal) options.signal = wanted.signal;
    return typeof callback === 'function' ? listen.call(this, options, callback) : listen.call(this, options);
  };
  handleTerm();
}

// What `listen` is asked for, in any of its forms; null where it is no fixed port or path.
function address([first]) {
  const options = typeof first === 'object' && first !== null ? first : null;
  if (options && (options.fd >= 0 || options._handle || options instanceof net.Server)) return null;
  const signal = options?.signal;
  const place = options ? (options.port ?? options.path) : first;
  if (typeof place === 'string' && !/^\s*\d+\s*$/.test(place)) return place ? { path: path.resolve(place), signal } : null;
  const port = typeof place === 'string' || typeof place === 'number' ? Number(place) : 0;
  return port > 0 ? { port, signal } : null;
}

// The socket that is wanted; -1 if there is none. The kernel knows a unix socket by the name that it had when it was bound, and
// rotad renames it within its directory: where only one of a directory was passed, that is the one.
function indexOf(sockets, wanted) {
  const at = sockets.findIndex((socket) => socket.port === wanted.port && socket.path === wanted.path);
  if (at >= 0 || !wanted.path) return at;
  const directory = real(path.dirname(wanted.path));
  const near = sockets.filter((socket) => socket.path && real(path.dirname(socket.path)) === directory);
  return near.length === 1 ? sockets.indexOf(near[0]) : -1;
}

function real(directory) {
  try {
    return fs.realpathSync(directory);
  } catch {
    return directory;
  }
}

const name = (socket) => socket.path ?? `port ${socket.port}`;

// The port or path of an inherited socket. Node cannot ask for it before it listens; the kernel's tables say it (proc(5)).
function socketOf(fd) {
  let inode;
  try {
    inode = /^socket:\[(\d+)\]$/.exec(fs.readlinkSync(`/proc/self/fd/${fd}`))?.[1];
  } catch {
    return null;
  }
  for (const table of ['tcp', 'tcp6']) {
    const line = find(`/proc/self/net/${table}`, (words) => words[9] === inode);
    if (line) return { fd, port: parseInt(line[1].split(':')[1], 16) };
  }
  const line = find('/proc/self/net/unix', (words) => words[6] === inode);
  return line?.[7] ? { fd, path: line.slice(7).join(' ') } : null;
}

// The words of the first line that is looked for. Listening sockets come first in /proc/net/tcp, so of a long table only the
// beginning is read.
function find(table, matches) {
  let file;
  try {
    file = fs.openSync(table, 'r');
  } catch {
    return null;
  }
  try {
    const buffer = Buffer.alloc(1 << 16);
    let rest = '';
    for (;;) {
      const size = fs.readSync(file, buffer, 0, buffer.length, null);
      if (size === 0) return null;
      const lines = (rest + buffer.toString('latin1', 0, size)).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        const words = line.trim().split(/\s+/);
        if (matches(words)) return words;
      }
    }
  } finally {
    fs.closeSync(file);
  }
}

// Remembers which answers a server is making, so that those at the moment of TERM can say `Connection: close`.
function serve(server) {
  const answers = new Set();
  servers.set(server, answers);
  function closed() {
    answers.delete(this);
  }
  server.prependListener('request', (request, answer) => {
    if (draining) return goodbye(answer);
    answers.add(answer);
    answer.once('close', closed);
  });
}

// HTTP/2 has no such header, and says goodbye itself.
function goodbye(answer) {
  if (!answer.headersSent && !answer.stream) answer.setHeader('Connection', 'close');
}

function handleTerm() {
  const emit = process.emit;
  let delivered = false;
  // Called by Deno alone, which calls every listener itself and not by `emit`: the program's own have got the signal as well.
  const placeholder = () => {
    if (draining) return;
    draining = true;
    drain(() => {
      if (process.listenerCount('SIGTERM') === 1) exit();
    });
  };
  process.emit = function (event, ...args) {
    if (event !== 'SIGTERM' || delivered) return emit.call(this, event, ...args);
    if (!draining) {
      draining = true;
      drain(deliver);
    }
    return true;
  };
  // Makes Node handle the signal, by the `emit` of this moment. The program's own listeners are called by `deliver`.
  process.on('SIGTERM', placeholder);

  function deliver() {
    delivered = true;
    if (process.listenerCount('SIGTERM') > 1) {
      // The program's listeners find themselves alone, as without a preload.
      process.removeListener('SIGTERM', placeholder);
      emit.call(process, 'SIGTERM', 'SIGTERM', 15);
    } else if (process.listenerCount('SIGINT') > 0) {
      emit.call(process, 'SIGINT', 'SIGINT', 2);
    } else if (process.listenerCount('message') > 0) {
      emit.call(process, 'message', 'shutdown', undefined);
    } else {
      exit();
    }
  }

  function exit() {
    if (servers.size > 0) {
      for (const server of servers.keys()) server.close(() => {});
      whenClosed(Infinity, () => process.exit(0));
    } else {
      process.removeListener('SIGTERM', placeholder);
      process.kill(process.pid, 'SIGTERM');
    }
  }
}

// Accepts no more, and lets clients leave; then goes on by `done`.
function drain(done) {
  for (const [server, answers] of servers) {
    // Not server.close(): since Node 19 that cuts idle connections, on which a request may be coming. Connections that wait in
    // the socket go to the other workers.
    server._handle?.close?.();
    for (const answer of answers) goodbye(answer);
  }
  whenClosed(GRACE, () => {
    for (const server of servers.keys()) server.closeIdleConnections?.();
    done();
  });
}

// Goes on once no HTTP server has a connection, or after so many milliseconds. Connections of other protocols have no moment at
// which they are idle: only the program knows how to end them.
function whenClosed(most, done) {
  const end = Date.now() + most;
  const look = () => {
    const open = [...servers.keys()].some((server) => server._connections > 0 && (server.closeIdleConnections || most === Infinity));
    if (!open || Date.now() >= end) done();
    else setTimeout(look, LOOK);
  };
  look();
}

function sendReady() {
  process.send = (message, ...rest) => {
    const done = rest.find((argument) => typeof argument === 'function') ?? (() => {});
    if (message === 'ready') notify('READY=1', done);
    else process.nextTick(done, null);
    return true;
  };
}

// Node has no datagram sockets of AF_UNIX: another program sends it.
function notify(state, done) {
  const attempt = ([[program, ...args], ...others]) => {
    const failed = (why) => {
      if (others.length > 0) return attempt(others);
      tell(`could not tell rotad ${state}: ${why}`);
      done(new Error(why));
    };
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    child.once('error', (error) => failed(error.message));
    child.once('exit', (code) => (code === 0 ? done(null) : failed(`${program} ended with ${code}`)));
    child.unref();
  };
  attempt([[ROTAD, '__notify', state], ['systemd-notify', '--no-block', state]]);
}

function tell(text) {
  process.stderr.write(`rotad: this program ${text}\n`);
}
