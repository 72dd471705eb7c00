const http = require('node:http');
const net = require('node:net');

const server = http.createServer((request, answer) => {
  request.resume().on('end', () => {
    const body = `${process.pid} ${process.env.ROTAD_GENERATION} api\n`;
    answer.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': Buffer.byteLength(body) });
    answer.end(body);
  });
});
server.listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGTERM', () => {
  // Once more around the event loop first: a connection that waits in the kernel is cut when the port closes. And not
  // server.close(), which also cuts those whose request has not come yet.
  setImmediate(() => setImmediate(() => net.Server.prototype.close.call(server, () => process.exit(0))));
});
