start_server --port=8080 --port=127.0.0.1:8443=5 --path=/tmp/app.sock --signal-on-hup=QUIT --interval=2 \
  --kill-old-delay=10 --pid-file=/tmp/app.pid --status-file=/tmp/app.status --envdir=env -- \
  plackup -s Starlet --max-workers=8 app.psgi
