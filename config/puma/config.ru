require "socket"

# rotad's first stop step. From here on every answer is the last of its connection, and there are no new ones: a
# listener to which nobody connects takes the place of the shared one, in this process alone.
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
