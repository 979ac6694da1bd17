//! The addresses of brokers as they are written: `host:port`, several separated by commas.
//!
//! The rule: an address that cannot work is refused where it is written, with the one that is wrong.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The port a broker listens on where none is written.
pub const DEFAULT_PORT: u16 = 9092;

/// The protocols librdkafka allows in front of an address, as in `SSL://host:9093`.
const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BrokerAddress {
    /// A name or an address; IPv6 without its brackets.
    pub host: String,
    /// 1 to 65,535.
    pub port: u16,
}

/// An address that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broker address {entry:?}: {rule}; write host:port, several separated by commas")]
pub struct AddressError {
    /// What was written.
    pub entry: String,
    /// What it breaks.
    pub rule: &'static str,
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for BrokerAddress {
    type Err = AddressError;

    fn from_str(entry: &str) -> Result<Self, AddressError> {
        parse(entry).map_err(|rule| AddressError {
            entry: entry.to_owned(),
            rule,
        })
    }
}

/// Reads a list of broker addresses; the first wrong one is the error.
pub fn brokers(list: &str) -> Result<Vec<BrokerAddress>, AddressError> {
    list.split(',').map(|entry| entry.trim().parse()).collect()
}

fn parse(entry: &str) -> Result<BrokerAddress, &'static str> {
    let address = match entry.split_once("://") {
        None => entry,
        Some((protocol, rest)) if PROTOCOLS.contains(&protocol.to_lowercase().as_str()) => rest,
        Some(_) => return Err("the protocol is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
    };
    if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
        let (ip, _zone) = host.split_once('%').unwrap_or((host, ""));
        ip.parse::<Ipv6Addr>()
            .map_err(|_| "what stands in brackets is not an IPv6 address")?;
        let port = match after.strip_prefix(':') {
            Some(port) => self::port(port)?,
            None if after.is_empty() => DEFAULT_PORT,
            None => return Err("after the bracket comes :port"),
        };
        return Ok(BrokerAddress {
            host: host.to_owned(),
            port,
        });
    }
    let (host, port) = match address.split_once(':') {
        None => (address, DEFAULT_PORT),
        Some((_, rest)) if rest.contains(':') => {
            return Err("an IPv6 address stands in brackets, as in [::1]:9092");
        }
        Some((host, port)) => (host, self::port(port)?),
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    if !host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    {
        return Err("a host name has letters, digits, dots and dashes only");
    }
    Ok(BrokerAddress {
        host: host.to_owned(),
        port,
    })
}

fn port(text: &str) -> Result<u16, &'static str> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the port is not a number");
    }
    match text.parse() {
        Ok(0) | Err(_) => Err("the port is not from 1 to 65535"),
        Ok(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(list: &str) -> Vec<String> {
        brokers(list)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn names_and_addresses_of_both_kinds_are_read() {
        assert_eq!(
            shown("a:1, kafka-1.example.org ,192.0.2.1:65535,[2001:db8::1]:9093,[::1],SSL://b:2"),
            [
                "a:1",
                "kafka-1.example.org:9092",
                "192.0.2.1:65535",
                "[2001:db8::1]:9093",
                "[::1]:9092",
                "b:2"
            ]
        );
    }

    #[test]
    fn the_wrong_one_of_a_list_is_named_with_its_fault() {
        let cases = [
            ("a:9092,", "", "host is missing"),
            ("a:9092,b:99999", "b:99999", "1 to 65535"),
            ("a:0", "a:0", "1 to 65535"),
            ("a:x,b:1", "a:x", "not a number"),
            ("a:", "a:", "1 to 65535"),
            ("::1:9092", "::1:9092", "brackets"),
            ("[::1:9092", "[::1:9092", "not closed"),
            ("[x]:9092", "[x]:9092", "IPv6"),
            ("a b:9092", "a b:9092", "letters"),
            ("http://a:9092", "http://a:9092", "protocol"),
        ];
        for (list, entry, rule) in cases {
            let error = brokers(list).unwrap_err();
            assert_eq!(error.entry, entry, "{list}");
            assert!(error.rule.contains(rule), "{list}: {error}");
        }
    }
}
