//! NOTIFY_SOCKET: one a worker (sd_notify(3)).
