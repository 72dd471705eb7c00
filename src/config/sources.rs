//! The texts of one configuration. Spans count through all of them as if they were one text, so that a span
//! identifies its file too.

use super::report::Place;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// One file's text.
#[derive(Clone)]
pub(super) struct Text {
    /// The name that findings show.
    pub(super) file: PathBuf,
    pub(super) text: Rc<str>,
    /// Where its spans begin.
    pub(super) start: usize,
}

impl Text {
    /// Converts a span of this text to a span of the whole.
    pub(super) fn whole(&self, span: &Range<usize>) -> Range<usize> {
        self.start + span.start..self.start + span.end
    }
}

/// All texts, in the order in which they were read; the first is the main one.
pub(super) struct Sources(Vec<Text>);

impl Sources {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        Self(vec![Text {
            file: file.to_owned(),
            text: text.into(),
            start: 0,
        }])
    }

    pub(super) fn add(&mut self, file: &Path, text: &str) -> Text {
        let start = self
            .0
            .last()
            .map_or(0, |last| last.start + last.text.len() + 1);
        let text = Text {
            file: file.to_owned(),
            text: text.into(),
            start,
        };
        self.0.push(text.clone());
        text
    }

    pub(super) fn main(&self) -> &Text {
        &self.0[0]
    }

    /// The file of a span, and its place in that file.
    pub(super) fn place(&self, span: &Range<usize>) -> (PathBuf, Place) {
        let after = self.0.partition_point(|text| text.start <= span.start);
        let text = &self.0[after.saturating_sub(1)];
        let local = span.start - text.start..span.end.saturating_sub(text.start);
        (text.file.clone(), Place::new(&text.text, &local))
    }
}

/// A value of one text, with spans that count in the whole.
pub(super) fn shift(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let moved = |span: Range<usize>| span.start + by..span.end + by;
    let span = moved(value.span());
    let value = match value.into_inner() {
        DeValue::Table(table) => {
            let entry = |(name, value): (Spanned<_>, _)| {
                let span = moved(name.span());
                (Spanned::new(span, name.into_inner()), shift(value, by))
            };
            DeValue::Table(table.into_iter().map(entry).collect::<DeTable<'_>>())
        }
        DeValue::Array(array) => {
            let mut items = DeArray::new();
            array
                .iter()
                .for_each(|item| items.push(shift(item.clone(), by)));
            DeValue::Array(items)
        }
        other => other,
    };
    Spanned::new(span, value)
}
