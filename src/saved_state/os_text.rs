//! Names of the operating system as text, or as bytes if they are none:
//! `#[serde(with = "crate::saved_state::os_text")]`. Serde's own form of an `OsString` is bytes, which JSON has as
//! numbers.

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Writes the name.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(
    name: &(impl AsRef<OsStr> + ?Sized),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let name = name.as_ref();
    match name.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => serializer.collect_seq(name.as_bytes()),
    }
}

/// Reads the name.
///
/// # Errors
/// Those of the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OsString, D::Error> {
    struct Name;

    impl<'de> Visitor<'de> for Name {
        type Value = OsString;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text or bytes")
        }

        fn visit_str<E>(self, text: &str) -> Result<OsString, E> {
            Ok(text.into())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<OsString, A::Error> {
            let mut name = Vec::new();
            while let Some(byte) = bytes.next_element()? {
                name.push(byte);
            }
            Ok(OsString::from_vec(name))
        }
    }

    deserializer.deserialize_any(Name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Saved(#[serde(with = "super")] OsString);

    #[test]
    fn names_are_read_again_whether_they_are_text_or_not() {
        for (name, text) in [(&b"/run/web"[..], r#""/run/web""#), (b"a\xff", "[97,255]")] {
            let saved = Saved(OsStr::from_bytes(name).to_owned());
            let written = serde_json::to_string(&saved).unwrap();
            assert_eq!(written, text);
            assert_eq!(serde_json::from_str::<Saved>(&written).unwrap(), saved);
        }
    }
}
