//! `metrics`: prints the numbers for monitoring as one page.

use super::client::ClientError;
use super::pss::PssReader;
use super::{print, request};
use crate::config::MasterPaths;
use crate::control::protocol::{Method, Response};
use crate::exit_code::ExitCode;
use crate::observe::metrics::{Format, Metrics, render};
use std::path::Path;

/// The formats, by the words of `--format`.
pub(super) const FORMATS: [(&str, Format); 2] =
    [("openmetrics", Format::OpenMetrics), ("text", Format::Text)];

pub(super) fn metrics(file: Option<&Path>, format: &str, pss: bool) -> ExitCode {
    let paths = match request::master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let known = FORMATS.iter().find(|(word, _)| *word == format);
    let format = known.map_or(Format::OpenMetrics, |(_, format)| *format);
    match fetch(&paths) {
        Ok(Ok(mut metrics)) => {
            if pss && let Some(why) = PssReader::default().add_to(&mut metrics) {
                print::warning(&why);
            }
            print::raw(&render(&metrics, format));
            ExitCode::DONE
        }
        Ok(Err((code, message))) => {
            print::error(&print::sanitize_lines(&message));
            code
        }
        Err(error) => {
            print::error(&error.to_string());
            error.code()
        }
    }
}

/// The numbers of the master, or its refusal: the exit code of a command, and why.
///
/// # Errors
/// As [`super::client::Client::connect`]; `Failed`: no answer within ten seconds.
pub fn fetch(paths: &MasterPaths) -> Result<Result<Metrics, (ExitCode, String)>, ClientError> {
    request::one_answer(paths, Method::Metrics, |response| match response {
        Response::Metrics(metrics) => Some(*metrics),
        _ => None,
    })
}
