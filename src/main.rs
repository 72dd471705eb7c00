//! Parse, call the verb, exit code.

fn main() -> std::process::ExitCode {
    rotad::cli::main()
}
