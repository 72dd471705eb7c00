require "socket"

# rotad's first stop step. From now on every answer closes its connection, and no new connection is accepted: in this
# process only, a listener to which no client connects replaces the shared one.
leaving = false
trap("WINCH") do
  leaving = true
  Thread.new { ObjectSpace.each_object(TCPServer).to_a.each { |it| it.reopen(TCPServer.new("127.0.0.1", 0)) } }
end

run lambda { |env|
  body = "#{Process.pid} #{ENV["ROTAD_GENERATION"]} puma\n"
  headers = { "content-type" => "text/plain", "content-length" => body.bytesize.to_s }
  headers["connection"] = "close" if leaving
  [200, headers, [body]]
}
