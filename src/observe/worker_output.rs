//! Which of the last lines of a worker tells most.

/// What a line has that names a failure, in the languages that workers are written in.
const TELLING: [&str; 8] = [
    // Python, Node, Ruby's and PHP's own classes: "ModuleNotFoundError: …".
    "Error:",
    // Ruby: "…: no such file (LoadError)".
    "Error)",
    // Java, .NET, PHP; not the frames of a trace, which only name the class.
    "Exception:",
    "Exception in thread",
    // PHP, and many programs in C.
    "atal error:",
    // Go, Rust.
    "panic:",
    "panicked at",
    "fatal:",
];

/// The line that tells most about a failure: the last one that names one, else the last that is not empty. The very last
/// line is often no help ("Node.js v20.11.0", "Shutting down: Master").
pub fn telling_line(lines: &[String]) -> Option<&str> {
    let mut lines = lines.iter().rev().map(|line| line.trim());
    let said = |line: &&str| !line.is_empty();
    lines
        .clone()
        .find(|line| TELLING.iter().any(|word| line.contains(word)))
        .or_else(|| lines.find(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_failure_is_found_among_the_last_lines_of_each_language() {
        let cases = [
            (
                "Error: Cannot find module './x'\n    at Module._load (node:1)\n  code: 'MODULE_NOT_FOUND'\n}\n\nNode.js v20.11.0",
                "Error: Cannot find module './x'",
            ),
            (
                "Traceback (most recent call last):\nModuleNotFoundError: No module named 'shop'\n[INFO] Shutting down: Master",
                "ModuleNotFoundError: No module named 'shop'",
            ),
            (
                "Exception in thread \"main\" java.lang.A\nCaused by: b.CException: no\n\tat b.CException.<init>(C.java:1)",
                "Caused by: b.CException: no",
            ),
            (
                "app.rb:3:in `require': cannot load such file -- x (LoadError)\n\tfrom app.rb:3",
                "app.rb:3:in `require': cannot load such file -- x (LoadError)",
            ),
            (
                "PHP Fatal error:  Uncaught TypeError in /a.php:2\n#0 {main}\n  thrown in /a.php on line 2",
                "PHP Fatal error:  Uncaught TypeError in /a.php:2",
            ),
            (
                "panic: no config\n\ngoroutine 1 [running]:",
                "panic: no config",
            ),
            ("connecting\n no database \n\n", "no database"),
        ];
        for (text, telling) in cases {
            assert_eq!(telling_line(&lines(text)), Some(telling), "{text}");
        }
        assert_eq!(telling_line(&lines("\n \n")), None);
    }
}
