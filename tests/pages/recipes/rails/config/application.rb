require_relative "boot"
require "rails"
require "active_record/railtie"
require "action_controller/railtie"
require "sprockets/railtie"
Bundler.require(*Rails.groups)

class Shop < Rails::Application
  config.load_defaults 6.1
  config.eager_load = true
  config.secret_key_base = "of a test"
  config.logger = Logger.new($stdout)
end
