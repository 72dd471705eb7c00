leaving = false
trap("WINCH") { leaving = true }    # rotad's first stop step: from now on every answer says that it is the last

run lambda { |env|
  body = "#{Process.pid} #{ENV["ROTAD_GENERATION"]} puma\n"
  headers = { "content-type" => "text/plain", "content-length" => body.bytesize.to_s }
  headers["connection"] = "close" if leaving
  [200, headers, [body]]
}
