//! Leaving the terminal by the book, and the report to the command that launched us.
