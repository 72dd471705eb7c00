//! Which variables a worker may have died for: with `clear_env` it does not get the master's, and its output may say which
//! one it wants. `process_table.rs` asks for each exit report of a worker that was never ready.

use crate::plan::Recipe;
use crate::process::environment;

/// Variables of terminals and shells, and words that any output may have.
const COMMON: [&str; 13] = [
    "COLUMNS", "DEBUG", "EDITOR", "ERROR", "HOME", "INFO", "LOGNAME", "OLDPWD", "SHELL", "SHLVL",
    "TERM", "USER", "WARN",
];

/// What programs say that lack what one of these variables names.
const SYMPTOMS: [(&str, &[&str]); 6] = [
    ("No module named", &["PYTHONPATH", "VIRTUAL_ENV"]),
    ("cannot open shared object file", &["LD_LIBRARY_PATH"]),
    ("Cannot find module", &["NODE_PATH"]),
    (
        "cannot load such file",
        &["RUBYLIB", "GEM_HOME", "GEM_PATH"],
    ),
    ("Could not find", &["GEM_HOME", "GEM_PATH", "BUNDLE_PATH"]),
    ("ClassNotFoundException", &["CLASSPATH"]),
];

/// More of them say nothing.
const MOST: usize = 5;

/// A hint for a worker that died before it was ready, by its last lines. Names alone, no values.
pub(super) fn hint(recipe: &Recipe, lines: &[String]) -> Option<String> {
    if !recipe.clear_env || lines.is_empty() {
        return None;
    }
    let mut cleared = environment::cleared(&recipe.pass_env);
    cleared.retain(|name| !recipe.env.iter().any(|(set, _)| set == name));
    text(&wanted(&cleared, lines))
}

/// Those of the cleared variables that the lines ask for.
fn wanted<'a>(cleared: &'a [String], lines: &[String]) -> Vec<&'a str> {
    let is_wanted = |name: &&str| {
        let named = name.len() > 3
            && !COMMON.contains(name)
            && lines.iter().any(|line| has_word(line, name));
        named
            || SYMPTOMS.iter().any(|(said, variables)| {
                variables.contains(name) && lines.iter().any(|line| line.contains(said))
            })
    };
    let mut found: Vec<&str> = cleared
        .iter()
        .map(String::as_str)
        .filter(is_wanted)
        .collect();
    found.sort_unstable();
    found.truncate(MOST);
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

fn text(names: &[&str]) -> Option<String> {
    let (first, rest) = names.split_first()?;
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let listed = match rest.len() {
        0 => (*first).to_owned(),
        _ => names.join(", "),
    };
    Some(format!(
        "the master's environment has {listed}, which this worker seems to want and did not get: `clear_env`, the default with \
         `user`, keeps it away; write pass_env = [{}], or clear_env = false",
        quoted.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(cleared: &'a [String], lines: &[&str]) -> Vec<&'a str> {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        wanted(cleared, &lines)
    }

    #[test]
    fn variables_that_the_output_asks_for_are_found_and_no_others() {
        let cleared = [
            "DATABASE_URL",
            "DEBUG",
            "APP",
            "PYTHONPATH",
            "API_KEY",
            "SHELL",
        ];
        let cleared = cleared.map(str::to_owned);
        assert_eq!(
            found(&cleared, &["KeyError: 'DATABASE_URL'"]),
            ["DATABASE_URL"]
        );
        assert_eq!(
            found(&cleared, &["need DATABASE_URL", "and $API_KEY."]),
            ["API_KEY", "DATABASE_URL"]
        );
        assert_eq!(
            found(&cleared, &["ModuleNotFoundError: No module named 'shop'"]),
            ["PYTHONPATH"]
        );
        for other in [
            "MY_DATABASE_URL and DATABASE_URL2",
            "DEBUG: APP starts in a SHELL",
            "database_url",
            "",
        ] {
            assert!(found(&cleared, &[other]).is_empty(), "{other}");
        }
    }

    #[test]
    fn the_hint_names_them_and_what_to_write() {
        assert_eq!(text(&[]), None);
        let two = text(&["A_KEY", "B_KEY"]).unwrap();
        assert!(two.contains("has A_KEY, B_KEY, which"), "{two}");
        assert!(two.contains("pass_env = [\"A_KEY\", \"B_KEY\"]"), "{two}");
    }
}
