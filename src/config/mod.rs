//! Text -> Config.
