//! What an error code of a Produce answer means for the batch it answers.
//!
//! The rule: every code has one of a few meanings, and a code that nobody knows is taken for the worst: the
//! batch may have been stored.
//!
//! Source: `org.apache.kafka.common.protocol.Errors`, and what the Java producer's `Sender` does with each.

use kafka_protocol::error::ResponseError;

use crate::counters::Failed;

/// What became of a batch that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is stored.
    Stored,
    /// It is not stored; the same again may be, here or at another leader.
    Again,
    /// It may be stored; the same again tells.
    Unsure,
    /// It does not follow the last batch that the broker knows of this producer.
    OutOfOrder,
    /// The broker no longer knows this producer.
    Stranger,
    /// The producer id may not be used.
    Forbidden,
    /// It is larger than the topic takes.
    TooLarge,
    /// It is not stored and never will be.
    Failed(Failed),
    /// It may be stored, and asking again would not tell.
    Unknown,
}

impl Verdict {
    /// The meaning of an error code; 0 is none.
    pub(crate) fn of(code: i16) -> Self {
        use ResponseError as E;
        let Some(error) = E::try_from_code(code) else {
            return Self::Stored;
        };
        match error {
            // The broker has it already: an earlier answer was lost.
            E::DuplicateSequenceNumber => Self::Stored,
            E::OutOfOrderSequenceNumber => Self::OutOfOrder,
            E::UnknownProducerId | E::InvalidProducerEpoch | E::InvalidProducerIdMapping => {
                Self::Stranger
            }
            E::ClusterAuthorizationFailed => Self::Forbidden,
            E::MessageTooLarge | E::RecordListTooLarge => Self::TooLarge,
            // Written to the leader, not to enough followers.
            E::RequestTimedOut | E::NotEnoughReplicasAfterAppend | E::NetworkException => {
                Self::Unsure
            }
            E::TopicAuthorizationFailed | E::InvalidTopicException => {
                Self::Failed(Failed::NotAuthorized)
            }
            E::InvalidRecord
            | E::InvalidTimestamp
            | E::InvalidRequest
            | E::InvalidRequiredAcks
            | E::PolicyViolation
            | E::UnsupportedCompressionType
            | E::UnsupportedForMessageFormat
            | E::UnsupportedVersion => Self::Failed(Failed::Refused),
            other if other.is_retriable() => Self::Again,
            _ => Self::Unknown,
        }
    }
}

/// The name of an error code, as Kafka's documentation writes it.
pub(crate) fn name(code: i16) -> String {
    let Some(error) = ResponseError::try_from_code(code) else {
        return "no error".to_owned();
    };
    let camel = error.to_string();
    if camel.contains(' ') {
        return camel.to_lowercase();
    }
    let mut name = String::with_capacity(camel.len() + 8);
    for (at, letter) in camel.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_meaning_and_an_unknown_one_the_worst() {
        let cases = [
            (0, Verdict::Stored),
            (46, Verdict::Stored),
            (45, Verdict::OutOfOrder),
            (59, Verdict::Stranger),
            (47, Verdict::Stranger),
            (10, Verdict::TooLarge),
            (18, Verdict::TooLarge),
            (3, Verdict::Again),
            (6, Verdict::Again),
            (19, Verdict::Again),
            (100, Verdict::Again),
            (103, Verdict::Again),
            (7, Verdict::Unsure),
            (20, Verdict::Unsure),
            (29, Verdict::Failed(Failed::NotAuthorized)),
            (87, Verdict::Failed(Failed::Refused)),
            (-1, Verdict::Unknown),
            (9_999, Verdict::Unknown),
        ];
        for (code, verdict) in cases {
            assert_eq!(Verdict::of(code), verdict, "{code}");
        }
    }

    #[test]
    fn codes_are_named_as_the_documentation_names_them() {
        assert_eq!(name(6), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!(name(10), "MESSAGE_TOO_LARGE");
        assert_eq!(name(9_999), "unknown error code: 9999");
    }
}
