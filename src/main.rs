//! Parse, call the verb, exit code.

fn main() -> std::process::ExitCode {
    if let Some(code) = rotad::process::shim::intercept() {
        return code;
    }
    // A guardian that was executed once more has its signals blocked: before anything changes that.
    if let Some(code) = rotad::cli::resume() {
        return code;
    }
    rotad::cli::main()
}
