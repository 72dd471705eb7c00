//! rotad-console: `rotad serve` and `rotad top`. A client of the control socket as any other: it may crash or be absent
//! without harm to the master.

mod serve;

use rotad::cli::console::{ConsoleVerb, call};
use rotad::exit_code::ExitCode;
use rotad::listener::InheritedFds;
use rotad::observe::print;

fn main() -> std::process::ExitCode {
    // Before anything opens a descriptor.
    let inherited = InheritedFds::find();
    let call = match call() {
        Ok(call) => call,
        Err(code) => return code.into(),
    };
    match call.verb {
        ConsoleVerb::Serve(args) => {
            return serve::serve(call.config.as_deref(), &args, inherited).into();
        }
        ConsoleVerb::Top(_) => print::error("not supported yet: `rotad top`"),
    }
    ExitCode::CONFIG.into()
}
