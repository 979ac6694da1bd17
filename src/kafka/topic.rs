//! The names that topics may have.
//!
//! The rule: a name that Kafka would not take is refused where it is written.

/// What a topic's name is made of (`org.apache.kafka.common.internals.Topic`).
pub const RULE: &str = "1 to 249 letters, digits, `.`, `_` and `-`";

/// A topic's name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("topic {topic:?}: a topic's name has {RULE}, and is neither `.` nor `..`")]
pub struct TopicNameError {
    /// What was written.
    pub topic: String,
}

/// Checks a topic's name by Kafka's own rule.
pub fn check(topic: &str) -> Result<(), TopicNameError> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = (1..=249).contains(&topic.len())
        && ![".", ".."].contains(&topic)
        && topic.bytes().all(is_legal);
    if is_name {
        return Ok(());
    }
    Err(TopicNameError {
        topic: topic.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_kafka_would_not_take_is_refused() {
        for topic in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(check(topic).is_err(), "{topic}");
        }
        for topic in ["pcap-1_2.x", "...", &"x".repeat(249)] {
            check(topic).unwrap();
        }
    }
}
