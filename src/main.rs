//! Parse, call the verb, exit code.

fn main() -> std::process::ExitCode {
    if let Some(code) = rotad::process::shim::intercept() {
        return code;
    }
    rotad::cli::main()
}
