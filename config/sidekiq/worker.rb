require "sidekiq"
require "sidekiq/sd_notify"

class Resize
  include Sidekiq::Worker

  def perform(name)
    Sidekiq::SdNotify.status("resize #{name}")
    note("begins #{name}")
    sleep 0.1                                     # the work
    note("done #{name}")
  end

  def note(line)
    File.write("jobs.txt", "#{line} #{ENV["ROTAD_GENERATION"]}\n", mode: "a")
  end
end
