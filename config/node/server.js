const http = require('node:http');
const net = require('node:net');

const GRACE = 2000; // milliseconds for a request that a client is sending at that moment
let stopping = false;

const server = http.createServer((request, answer) => {
  if (stopping) answer.setHeader('Connection', 'close');
  const body = `${process.pid} ${process.env.ROTAD_GENERATION} node\n`;
  answer.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': Buffer.byteLength(body) });
  answer.end(body);
});
server.listen({ fd: 3 });

process.on('SIGTERM', () => {
  stopping = true;
  // Stops accepting. Not server.close(): since Node 19 that cuts idle connections, on which a request may be coming.
  net.Server.prototype.close.call(server, () => process.exit(0));
  setTimeout(() => server.closeIdleConnections(), GRACE);
});
