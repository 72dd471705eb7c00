//! What a master killed by -9 left behind, and how to take it over.
