//! The pools that a command names: each by its name, several by a shell pattern, every one by `all`. The master expands
//! what its clients send, because it knows its pools; `status`, which filters on its own, and `roll POOL/SLOT` do it from
//! the status.

use glob::Pattern;

/// Every pool, unless one has this name.
pub const ALL: &str = "all";

/// What names of pools may be expanded to.
#[derive(Clone, Copy, Debug)]
pub struct Pools<'a> {
    /// The names of all pools, in the order of the configuration.
    pub all: &'a [&'a str],
    /// Those that a pattern may match.
    pub by_pattern: &'a [&'a str],
}

impl<'a> Pools<'a> {
    /// A pattern matches any of them.
    pub fn new(all: &'a [&'a str]) -> Self {
        Self {
            all,
            by_pattern: all,
        }
    }

    /// The names that `given` stand for, each once, in the order given. `None`: every pool.
    ///
    /// # Errors
    /// For the user: one of them stands for no pool, or is no pattern.
    pub fn expand(&self, given: &[String]) -> Result<Option<Vec<String>>, String> {
        let mut names: Vec<String> = Vec::new();
        let mut every = false;
        for word in given {
            if word == ALL && !self.all.contains(&ALL) {
                every = true;
                continue;
            }
            for name in self.matches(word)? {
                if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
        }
        Ok((!every).then_some(names))
    }

    /// The pools that one word stands for: one at least.
    fn matches(&self, word: &str) -> Result<Vec<&'a str>, String> {
        if let Some(name) = self.all.iter().find(|name| **name == word) {
            return Ok(vec![name]);
        }
        if !is_pattern(word) {
            return Err(self.unknown(word));
        }
        let pattern = Pattern::new(word).map_err(|error| {
            format!("`{word}` is no pattern of pools: {error}; `*`, `?` and `[ab]` stand for letters of a name")
        })?;
        let found: Vec<&str> = self
            .by_pattern
            .iter()
            .copied()
            .filter(|name| pattern.matches(name))
            .collect();
        match found.is_empty() {
            false => Ok(found),
            true if self.all.iter().any(|name| pattern.matches(name)) => Err(format!(
                "`{word}` matches oneshots only: name one in full to run it again"
            )),
            true => Err(format!(
                "no pool matches `{word}`; there are: {}",
                self.all.join(", ")
            )),
        }
    }

    /// What is said where no pool has this name.
    pub fn unknown(&self, word: &str) -> String {
        let hint = match self.meant_by(word) {
            Some(meant) => format!("; did you mean {meant}?"),
            None => String::new(),
        };
        format!(
            "no such pool: {word}{hint}; there are: {}",
            self.all.join(", ")
        )
    }

    /// The pool that a name of another tool, or a typing mistake, stands for.
    fn meant_by(&self, word: &str) -> Option<String> {
        let known = |name: &str| self.all.contains(&name);
        // systemd's units; supervisord's GROUP:NAME and NAME_00; what compose and pm2 append.
        if let Some(name) = word.strip_suffix(".service").filter(|name| known(name)) {
            return Some(name.to_owned());
        }
        if let Some((group, process)) = word.split_once(':') {
            let slot = process.rsplit(['_', ':']).next()?.parse::<u32>().ok();
            return match (known(group), known(process), slot) {
                (true, _, Some(slot)) => Some(format!("{group}/{slot}")),
                (true, ..) => Some(group.to_owned()),
                (_, true, _) => Some(process.to_owned()),
                _ => None,
            };
        }
        if let Some((name, slot)) = word.rsplit_once(['_', '-', '.', '@'])
            && let (true, Ok(slot)) = (known(name), slot.parse::<u32>())
        {
            return Some(format!("{name}/{slot}"));
        }
        let distance = |name: &&&str| strsim::damerau_levenshtein(word, name);
        self.all
            .iter()
            .min_by_key(distance)
            .filter(|name| distance(name) <= 1 + name.len().min(word.len()) / 4)
            .map(|name| (*name).to_owned())
    }
}

/// Whether a word is a pattern of the shell's kind: no name of a pool has these letters.
pub fn is_pattern(word: &str) -> bool {
    word.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_POOLS: [&str; 5] = ["web", "zulip_a", "zulip_b", "zulip_migrate", "db"];

    fn expand(given: &[&str]) -> Result<Option<Vec<String>>, String> {
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        Pools::new(&ALL_POOLS).expand(&given)
    }

    #[test]
    fn patterns_stand_for_the_names_that_they_match() {
        for (given, names) in [
            (&["web"][..], &["web"][..]),
            (&["zulip_*"], &["zulip_a", "zulip_b", "zulip_migrate"]),
            (&["zulip_?", "web"], &["zulip_a", "zulip_b", "web"]),
            (&["zulip_[!a]", "zulip_b"], &["zulip_b"]),
            (&["*"], &ALL_POOLS),
        ] {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            assert_eq!(expand(given), Ok(Some(names)), "{given:?}");
        }
        assert_eq!(expand(&["all"]), Ok(None));
        assert_eq!(expand(&["web", "all"]), Ok(None));
        assert_eq!(expand(&[]), Ok(Some(Vec::new())));
    }

    #[test]
    fn a_pool_may_be_called_all() {
        let pools = Pools::new(&["all", "web"]);
        assert_eq!(
            pools.expand(&["all".to_owned()]),
            Ok(Some(vec!["all".to_owned()]))
        );
    }

    #[test]
    fn a_pattern_passes_over_pools_that_are_to_be_named_in_full() {
        let pools = Pools {
            all: &ALL_POOLS,
            by_pattern: &["web", "zulip_a", "zulip_b", "db"],
        };
        let expand = |word: &str| pools.expand(&[word.to_owned()]);
        assert_eq!(
            expand("zulip_*"),
            Ok(Some(vec!["zulip_a".to_owned(), "zulip_b".to_owned()]))
        );
        assert_eq!(
            expand("zulip_migrate"),
            Ok(Some(vec!["zulip_migrate".to_owned()]))
        );
        assert!(expand("zulip_m*").is_err_and(|why| why.contains("oneshots only")));
    }

    #[test]
    fn what_stands_for_no_pool_names_those_that_exist() {
        for (word, said) in [
            ("nobody", "no such pool: nobody; there are: web, zulip_a"),
            ("x*", "no pool matches `x*`; there are: web, zulip_a"),
            ("[x", "`[x` is no pattern"),
            ("web.service", "did you mean web?"),
            ("web:web_01", "did you mean web/1?"),
            ("zulip:zulip_a", "did you mean zulip_a?"),
            ("web_00", "did you mean web/0?"),
            ("web-1", "did you mean web/1?"),
            ("wbe", "did you mean web?"),
        ] {
            let why = expand(&[word]).expect_err(word);
            assert!(why.contains(said), "{word}: {why}");
        }
    }
}
