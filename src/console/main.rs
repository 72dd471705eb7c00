//! rotad-console: `rotad serve` and `rotad top`. A client of the control socket as any other: it may crash or be absent
//! without harm to the master.

mod serve;
mod top;

use rotad::cli::console::{ConsoleVerb, call};
use rotad::listener::InheritedFds;

fn main() -> std::process::ExitCode {
    // Before anything opens a descriptor.
    let inherited = InheritedFds::find();
    let call = match call() {
        Ok(call) => call,
        Err(code) => return code.into(),
    };
    match call.verb {
        ConsoleVerb::Serve(args) => serve::serve(call.config.as_deref(), &args, inherited),
        ConsoleVerb::Top(_) => top::top(call.config.as_deref()),
    }
    .into()
}
