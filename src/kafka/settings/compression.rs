//! Which codec the settings name.
//!
//! The rule: librdkafka's keys mean the same to every producer. A topic's codec wins over the client's, and a
//! level counts only beside a codec.

use crate::batch::Codec;

use super::{Settings, SettingsError};

impl Settings {
    /// The codec that is named under any of librdkafka's keys, and the setting as written; `None` where none is.
    ///
    /// Fails where the native producer has not this level of it.
    pub fn compression(&self) -> Result<Option<(Codec, String)>, SettingsError> {
        let Some((key, name)) = ["topic.compression.codec", "compression.codec"]
            .into_iter()
            .filter_map(|key| Some((key, self.get(key)?)))
            .find(|(_, name)| *name != "inherit")
        else {
            return Ok(None);
        };
        let written = self.written(key);
        let invalid = |key: String, value: &str, rule: String| SettingsError::Invalid {
            key,
            value: value.to_owned(),
            rule,
        };
        let codec = Codec::named(name)
            .map_err(|error| invalid(written.clone(), name, error.to_string()))?;
        let level = self.get("compression.level").unwrap_or("-1");
        let number = level.parse().unwrap_or(-1);
        if codec == Codec::None {
            return Ok(Some((codec, format!("{written}={name}"))));
        }
        let codec = codec.at(number).map_err(|error| {
            invalid(self.written("compression.level"), level, error.to_string())
        })?;
        Ok(Some((codec, format!("{written}={name}"))))
    }
}
