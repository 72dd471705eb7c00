//! Cuts text that is too long, and marks that it was cut.

/// The text, or as much of its beginning as fits into `most` bytes together with a mark that something is missing.
pub fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    format!("{} … ({} bytes left out)", &text[..end], text.len() - end)
}

/// The texts, one on each line, in about `most` bytes. If they are longer, each is cut to its share, so that every
/// one of them is still named.
pub fn join_within(texts: &[String], most: usize) -> String {
    let share = most / texts.len().max(1);
    let fits = texts.iter().map(|text| text.len() + 1).sum::<usize>() <= most;
    let cut = |text: &String| {
        if fits {
            text.clone()
        } else {
            clip(text, share.max(SHORTEST))
        }
    };
    texts.iter().map(cut).collect::<Vec<_>>().join("\n")
}

/// The minimum that each text keeps, in bytes: a name and the beginning of a reason.
const SHORTEST: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_stays_and_a_long_one_says_that_it_was_cut() {
        assert_eq!(clip("äöü", 6), "äöü");
        assert_eq!(clip("äöü", 3), "ä … (4 bytes left out)");
    }

    #[test]
    fn every_text_is_named_however_long_the_others_are() {
        let texts: Vec<String> = (0..300)
            .map(|n| format!("pool{n}: {}", "x".repeat(10_000)))
            .collect();
        let joined = join_within(&texts, 256 << 10);
        assert!(joined.len() < 300 << 10, "{}", joined.len());
        assert!((0..300).all(|n| joined.contains(&format!("pool{n}: x"))));
        assert!(joined.contains("bytes left out"));
        let short = ["one".to_owned(), "two".to_owned()];
        assert_eq!(join_within(&short, 100), "one\ntwo");
    }
}
