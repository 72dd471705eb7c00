#!/bin/sh
# einhorn keeps the socket over deploys
set -e
exec bundle exec einhorn -n 4 -b 0.0.0.0:9292,r,n -b 127.0.0.1:9293 -m \
  -c shop --seconds 5 -t 60 --max-unacked 2 -l 512 -d /tmp/einhorn.sock -- \
  bundle exec puma -C config/puma.rb
