//! The house of one master: runtime directory, lock, pid file.
