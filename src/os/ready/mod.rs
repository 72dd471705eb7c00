//! Readiness seen from outside.
