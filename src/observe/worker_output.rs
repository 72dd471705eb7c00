//! What the last lines of a worker say: which of them tells most, and what to do about a common one.

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

/// What to do about a failure that the lines name and that has to do with rotad.
pub fn advice(lines: &[String]) -> Option<&'static str> {
    let in_use = |line: &String| {
        ["EADDRINUSE", "ddress already in use", "ddress in use"]
            .iter()
            .any(|word| line.contains(word))
    };
    lines.iter().any(in_use).then_some(
        "its address is in use. By rotad, if the pool has it in `listen`: then the program has to take the socket from \
         descriptor 3 (Node does with `--require {preload:node}`). By the worker that it replaces, if it opens its own port: give each worker one by `ports`, or set \
         `surge = 0` in `reload`. Otherwise another process has it (`ss -ltnp`)",
    )
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

    #[test]
    fn an_address_in_use_is_explained_and_nothing_else() {
        for text in [
            "Error: listen EADDRINUSE: address already in use :::3000\nNode.js v20",
            "OSError: [Errno 98] Address already in use",
            "nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)",
        ] {
            assert!(advice(&lines(text)).is_some(), "{text}");
        }
        assert_eq!(advice(&lines("no database")), None);
    }
}
