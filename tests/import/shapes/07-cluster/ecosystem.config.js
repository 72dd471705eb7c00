// A web application on all CPUs, and two small ones.
const path = require('path');
const common = { env: { NODE_ENV: 'development' }, env_production: { NODE_ENV: 'production', LOG: 'info' } };

module.exports = {
  apps: [
    {
      name: 'drift web',
      script: 'dist/server.js',
      instances: process.env.WEB_CONCURRENCY || 'max',
      exec_mode: 'cluster',
      wait_ready: true,
      listen_timeout: 10000,
      kill_timeout: 5000,
      max_memory_restart: '500M',
      time: true,
      env: { ...common.env, PORT: 3000, DATABASE_URL: process.env.DATABASE_URL, CACHE: `redis://${process.env.CACHE_HOST}:6379` },
      env_production: common.env_production,
      out_file: path.join('logs', 'out.log'),
      error_file: './logs/err.log',
      merge_logs: true,
      max_restarts: 10,
      min_uptime: '30s',
    },
    {
      name: 'digest',
      script: 'dist/digest.js',
      cwd: __dirname,
      cron_restart: '0 4 * * *',
      autorestart: false,
      args: ['--verbose', `--region=${process.env.REGION || 'eu'}`],
    },
    {
      name: 'feed',
      script: './dist/feed.js',
      node_args: '--max-old-space-size=256',
      cron_restart: '30 3 * * *',
      watch: ['dist', 'config.json'],
      ignore_watch: ['node_modules', 'dist/tmp'],
      watch_delay: 1000,
      exp_backoff_restart_delay: 100,
      shutdown_with_message: true,
    },
  ],
  deploy: { production: { user: 'deploy', host: 'example.com', repo: 'x', path: '/srv/drift' } },
};
