//! The answers of a broker, read within their bytes.
//!
//! The rule: nothing is believed. A length is compared with what is there before anything is reserved for
//! it, so that a damaged answer is an error and never an allocation: a decoder that reserves what a length
//! field says would end the sensor. An answer to Produce is read without allocating at all.
//!
//! Source of the layouts: the message definitions of Apache Kafka 4.1
//! (`clients/src/main/resources/common/message`).

use uuid::Uuid;

/// An answer that is not of its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is damaged: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

type Read<T> = Result<T, Malformed>;

/// Reads the primitive types of the protocol from the front of some bytes.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Whether lengths are compact and structures end in tagged fields.
    flexible: bool,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; `flexible` as the version of the answer says.
    pub(crate) fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self {
            rest: bytes,
            flexible,
        }
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn i8(&mut self) -> Read<i8> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    pub(crate) fn i16(&mut self) -> Read<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Read<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Read<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn uuid(&mut self) -> Read<Uuid> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    fn varint(&mut self) -> Read<usize> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| Malformed("a length is too long"));
            }
        }
        Err(Malformed("a length is too long"))
    }

    /// A length as a signed number says it, or a compact one; `None` is null.
    fn length(&mut self, plain: impl Fn(&mut Self) -> Read<i64>) -> Read<Option<usize>> {
        if self.flexible {
            return Ok(self.varint()?.checked_sub(1));
        }
        match plain(self)? {
            -1 => Ok(None),
            length => usize::try_from(length)
                .map(Some)
                .map_err(|_| Malformed("a length is negative")),
        }
    }

    /// A string that may be null.
    pub(crate) fn text(&mut self) -> Read<Option<&'a str>> {
        let Some(length) = self.length(|reader| reader.i16().map(i64::from))? else {
            return Ok(None);
        };
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a name is not UTF-8"))?;
        Ok(Some(text))
    }

    /// Bytes that may be null: then none.
    pub(crate) fn bytes(&mut self) -> Read<&'a [u8]> {
        let length = self.length(|reader| reader.i32().map(i64::from))?;
        self.take(length.unwrap_or(0))
    }

    /// Has `each` read every element of an array; one that is null has none.
    pub(crate) fn each(&mut self, mut each: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        let count = self.length(|reader| reader.i32().map(i64::from))?;
        let count = count.unwrap_or(0);
        // No element is smaller than a byte.
        if count > self.rest.len() {
            return Err(Malformed("an array is longer than the answer"));
        }
        for _ in 0..count {
            each(self)?;
        }
        Ok(())
    }

    /// Skips the tagged fields at the end of a structure.
    pub(crate) fn tags(&mut self) -> Read<()> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = self.varint()?;
            self.take(length)?;
        }
        Ok(())
    }

    fn numbers(&mut self) -> Read<()> {
        self.each(|reader| reader.i32().map(drop))
    }
}

/// One API of a broker, with the versions it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ApiVersion {
    pub(crate) key: i16,
    pub(crate) min: i16,
    pub(crate) max: i16,
}

/// The answer to ApiVersions: an error code, and what the broker speaks.
///
/// Its header has no tagged fields, whatever the version (KIP-511). Of a refusal of the version no more is
/// read than the code: brokers write the rest in more than one form.
pub(crate) fn api_versions(bytes: &[u8], version: i16) -> Read<(i16, Vec<ApiVersion>)> {
    const UNSUPPORTED_VERSION: i16 = 35;
    let mut reader = Reader::new(bytes, version >= 3);
    let code = reader.i16()?;
    let mut versions = Vec::new();
    if code == UNSUPPORTED_VERSION {
        return Ok((code, versions));
    }
    reader.each(|reader| {
        versions.push(ApiVersion {
            key: reader.i16()?,
            min: reader.i16()?,
            max: reader.i16()?,
        });
        reader.tags()
    })?;
    Ok((code, versions))
}

/// A broker as it advertises itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A partition and its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) partition: i32,
    /// An error code; 0 where there is a leader.
    pub(crate) code: i16,
    pub(crate) node: i32,
    /// -1 where the broker does not tell.
    pub(crate) epoch: i32,
}

/// What a metadata answer says of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) brokers: Vec<Node>,
    /// The topic's error code; 0 where it is there.
    pub(crate) code: i16,
    /// Its id; nil before version 10.
    pub(crate) id: Uuid,
    /// Its partitions in the order of their numbers.
    pub(crate) partitions: Vec<Leader>,
}

/// The answer to Metadata for the one topic that was asked for. Versions 1 to 12.
pub(crate) fn metadata(bytes: &[u8], version: i16) -> Read<Metadata> {
    const UNKNOWN_TOPIC: i16 = 3;
    let mut reader = Reader::new(bytes, version >= 9);
    reader.tags()?;
    if version >= 3 {
        reader.i32()?;
    }
    let mut found = Metadata {
        code: UNKNOWN_TOPIC,
        ..Metadata::default()
    };
    reader.each(|reader| {
        let id = reader.i32()?;
        let host = reader.text()?.unwrap_or_default().to_owned();
        let port = u16::try_from(reader.i32()?).map_err(|_| Malformed("a port is none"))?;
        reader.text()?;
        found.brokers.push(Node { id, host, port });
        reader.tags()
    })?;
    if version >= 2 {
        reader.text()?;
    }
    reader.i32()?;
    reader.each(|reader| {
        found.code = reader.i16()?;
        reader.text()?;
        if version >= 10 {
            found.id = reader.uuid()?;
        }
        reader.i8()?;
        let partitions = &mut found.partitions;
        partitions.clear();
        reader.each(|reader| {
            let code = reader.i16()?;
            partitions.push(Leader {
                code,
                partition: reader.i32()?,
                node: reader.i32()?,
                epoch: if version >= 7 { reader.i32()? } else { -1 },
            });
            reader.numbers()?;
            reader.numbers()?;
            if version >= 5 {
                reader.numbers()?;
            }
            reader.tags()
        })?;
        if version >= 8 {
            reader.i32()?;
        }
        reader.tags()
    })?;
    found.partitions.sort_by_key(|leader| leader.partition);
    Ok(found)
}

/// The answer to InitProducerId: an error code, the id and its epoch. Versions 0 to 5.
pub(crate) fn producer_id(bytes: &[u8], version: i16) -> Read<(i16, i64, i16)> {
    let mut reader = Reader::new(bytes, version >= 2);
    reader.tags()?;
    reader.i32()?;
    Ok((reader.i16()?, reader.i64()?, reader.i16()?))
}

/// What a broker says of one record batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Produced {
    /// The partition it went to.
    pub(crate) partition: i32,
    /// An error code; 0 where it was stored.
    pub(crate) code: i16,
    /// How long we are to leave the broker alone, in milliseconds.
    pub(crate) throttle_ms: i32,
}

/// The answer to a Produce request with one batch. Versions 3 to 13. Allocates nothing.
pub(crate) fn produce(bytes: &[u8], version: i16) -> Read<Produced> {
    let mut reader = Reader::new(bytes, version >= 9);
    reader.tags()?;
    let mut found = None;
    reader.each(|reader| {
        if version >= 13 {
            reader.uuid()?;
        } else {
            reader.text()?;
        }
        reader.each(|reader| {
            found = Some((reader.i32()?, reader.i16()?));
            reader.i64()?;
            reader.i64()?;
            if version >= 5 {
                reader.i64()?;
            }
            if version >= 8 {
                reader.each(|reader| {
                    reader.i32()?;
                    reader.text()?;
                    reader.tags()
                })?;
                reader.text()?;
            }
            reader.tags()
        })?;
        reader.tags()
    })?;
    let throttle_ms = reader.i32()?;
    let (partition, code) = found.ok_or(Malformed("it names no partition"))?;
    Ok(Produced {
        partition,
        code,
        throttle_ms,
    })
}

/// The answer to SaslHandshake: an error code, and the mechanisms that the broker offers.
pub(crate) fn sasl_handshake(bytes: &[u8]) -> Read<(i16, Vec<String>)> {
    let mut reader = Reader::new(bytes, false);
    let code = reader.i16()?;
    let mut offered = Vec::new();
    reader.each(|reader| {
        offered.extend(reader.text()?.map(str::to_owned));
        Ok(())
    })?;
    Ok((code, offered))
}

/// The answer to SaslAuthenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authenticated<'a> {
    pub(crate) code: i16,
    /// What the broker says of a refusal.
    pub(crate) said: &'a str,
    /// The mechanism's own bytes.
    pub(crate) challenge: &'a [u8],
    /// How long the session lasts, in milliseconds; 0 for ever.
    pub(crate) lifetime_ms: i64,
}

/// Reads the answer to SaslAuthenticate. Versions 0 to 2.
pub(crate) fn sasl_authenticate(bytes: &[u8], version: i16) -> Read<Authenticated<'_>> {
    let mut reader = Reader::new(bytes, version >= 2);
    reader.tags()?;
    Ok(Authenticated {
        code: reader.i16()?,
        said: reader.text()?.unwrap_or_default(),
        challenge: reader.bytes()?,
        lifetime_ms: if version >= 1 { reader.i64()? } else { 0 },
    })
}

/// The value of the one setting that DescribeConfigs was asked for; `None` where we may not know it.
/// Versions 1 to 4.
pub(crate) fn config(bytes: &[u8], version: i16, key: &str) -> Read<Option<String>> {
    let mut reader = Reader::new(bytes, version >= 4);
    reader.tags()?;
    reader.i32()?;
    let mut found = None;
    reader.each(|reader| {
        reader.i16()?;
        reader.text()?;
        reader.i8()?;
        reader.text()?;
        reader.each(|reader| {
            let name = reader.text()?;
            let value = reader.text()?;
            if name == Some(key) {
                found = value.map(str::to_owned);
            }
            reader.i8()?;
            reader.i8()?;
            reader.i8()?;
            reader.each(|reader| {
                reader.text()?;
                reader.text()?;
                reader.i8()?;
                reader.tags()
            })?;
            if version >= 3 {
                reader.i8()?;
                reader.text()?;
            }
            reader.tags()
        })?;
        reader.tags()
    })?;
    Ok(found)
}

/// The answer to CreateTopics for one topic: an error code, and what the broker says of it. Versions 2 to 7.
pub(crate) fn create_topic(bytes: &[u8], version: i16) -> Read<(i16, String)> {
    let mut reader = Reader::new(bytes, version >= 5);
    reader.tags()?;
    reader.i32()?;
    let mut found = None;
    reader.each(|reader| {
        reader.text()?;
        if version >= 7 {
            reader.uuid()?;
        }
        let code = reader.i16()?;
        let said = reader.text()?.unwrap_or_default().to_owned();
        found = Some((code, said));
        if version >= 5 {
            reader.i32()?;
            reader.i16()?;
            reader.each(|reader| {
                reader.text()?;
                reader.text()?;
                reader.i8()?;
                reader.i8()?;
                reader.i8()?;
                reader.tags()
            })?;
        }
        reader.tags()
    })?;
    found.ok_or(Malformed("it names no topic"))
}

#[cfg(test)]
mod tests;
