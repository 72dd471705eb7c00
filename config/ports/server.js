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
  // First accept connections that wait in the kernel: they are cut when the port closes. Not server.close(), which also
  // cuts connections whose request has not arrived yet.
  setImmediate(() => setImmediate(() => net.Server.prototype.close.call(server, () => process.exit(0))));
});
