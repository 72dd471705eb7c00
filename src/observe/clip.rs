//! Cuts text that is too long, and marks that it was cut.

use super::counted::counted;

/// The text, or as much of its beginning as fits into `max` bytes, and a mark that says how much is missing.
pub fn clip(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    let left_out = counted(text.len() - end, "byte");
    format!("{} … ({left_out} left out)", &text[..end])
}

/// The texts, one on each line, in about `max` bytes. If they are longer, each is cut to its share, so that every
/// one of them is still named.
pub fn join_within(texts: &[String], max: usize) -> String {
    let share = max / texts.len().max(1);
    let fits = texts.iter().map(|text| text.len() + 1).sum::<usize>() <= max;
    let cut = |text: &String| {
        if fits {
            text.clone()
        } else {
            clip(text, share.max(MIN_SHARE))
        }
    };
    texts.iter().map(cut).collect::<Vec<_>>().join("\n")
}

/// The minimum that each text keeps, in bytes: a name and the beginning of a reason.
const MIN_SHARE: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_texts_are_cut_and_marked() {
        assert_eq!(clip("äöü", 6), "äöü");
        assert_eq!(clip("äöü", 3), "ä … (4 bytes left out)");
    }

    #[test]
    fn every_text_keeps_its_beginning() {
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
