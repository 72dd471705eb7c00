//! Listening sockets, opened once and kept open through anything.
