module.exports = {
  apps: [{
    name: 'sim',
    script: 'pnpm',
    args: 'start',
    cwd: '/srv',
    interpreter: 'none',
    env: { NODE_ENV: 'production', PORT: 8080 },
    autorestart: true,
    watch: false,
    instances: 1,
    exec_mode: 'fork',
    log_date_format: 'YYYY-MM-DD HH:mm:ss',
    combine_logs: true,
    pmx: false,
  }, {
    name: 'worker',
    script: "python3 worker.py --queue 'mail, sms' >> /tmp/worker.log",
    instances: 2,
    restart_delay: 4000,
    stop_exit_codes: [0],
    colour: 'red',
  }],
};
