//! rotad-console: `rotad serve` and `rotad top`. A client of the control socket as any other: it may crash or be absent
//! without harm to the master.

use rotad::cli::console::{ConsoleVerb, call};
use rotad::exit_code::ExitCode;
use rotad::observe::print;

fn main() -> std::process::ExitCode {
    let call = match call() {
        Ok(call) => call,
        Err(code) => return code.into(),
    };
    match call.verb {
        ConsoleVerb::Serve(_) => print::error("not supported yet: `rotad serve`"),
        ConsoleVerb::Top(_) => print::error("not supported yet: `rotad top`"),
    }
    ExitCode::CONFIG.into()
}
