//! Numbers with what they count, in English.

use std::fmt::Display;

/// `1 worker`, `3 workers`, `2 processes`. `one`: the word for one, whose plural ends in "s" or "es".
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    let ending = match one {
        _ if count == N::from(1) => "",
        one if one.ends_with('s') => "es",
        _ => "s",
    };
    format!("{count} {one}{ending}")
}

/// "was" for one, "were" for more.
pub fn were<N: PartialEq + From<u8>>(count: N) -> &'static str {
    if count == N::from(1) { "was" } else { "were" }
}

/// `1 line is missing`, `3 lines are missing`.
pub fn missing(count: u64, one: &str) -> String {
    let are = if count == 1 { "is" } else { "are" };
    format!("{} {are} missing", counted(count, one))
}

#[cfg(test)]
mod tests {
    use super::{counted, missing, were};

    #[test]
    fn only_one_is_singular() {
        assert_eq!(counted(1_u32, "worker"), "1 worker");
        assert_eq!(counted(0_usize, "worker"), "0 workers");
        assert_eq!((were(1_u32), were(0_u32)), ("was", "were"));
        assert_eq!(missing(1, "line"), "1 line is missing");
        assert_eq!(missing(3, "line"), "3 lines are missing");
        assert_eq!(counted(2_u64, "process"), "2 processes");
    }
}
