//! The birth of a worker: from an order to a running program, or to the reason why there is none.
