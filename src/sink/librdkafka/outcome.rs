//! What a report of librdkafka means to the ledger.
//!
//! The rule: a record is delivered, unconfirmed, failed for a named reason, or possibly persisted;
//! exactly one of them.

use rdkafka_sys::rd_kafka_resp_err_t as Code;

use crate::counters::Failed;
use crate::kafka::settings::Acks;
use crate::sink::Outcome;

use super::client::{Report, Status};

/// Books one report.
#[inline]
pub(super) fn book(outcome: &mut Outcome, report: Report, acks: Acks) {
    match report.status {
        Status::Persisted if acks == Acks::None => outcome.unconfirmed += 1,
        Status::Persisted => outcome.delivered += 1,
        Status::PossiblyPersisted => outcome.possibly_persisted += 1,
        Status::NotPersisted if is_doubtful(report.code) => outcome.possibly_persisted += 1,
        Status::NotPersisted => fail(outcome, report.code),
    }
}

/// Books one record that is certainly not stored.
pub(super) fn fail(outcome: &mut Outcome, code: Code) {
    outcome.not_persisted[reason(code) as usize] += 1;
}

/// Whether the record was given up unsent: by a purge, or because its client had ended.
pub(super) fn is_unsent(report: Report) -> bool {
    report.status == Status::NotPersisted
        && matches!(
            report.code,
            Code::RD_KAFKA_RESP_ERR__PURGE_QUEUE | Code::RD_KAFKA_RESP_ERR__FATAL
        )
}

/// Whether the report came of what a broker said: librdkafka's own codes are below that of an unknown
/// one.
pub(super) fn is_answer(report: Report) -> bool {
    report.code as i32 >= Code::RD_KAFKA_RESP_ERR_UNKNOWN as i32
}

/// By what the record is lost, where it was not we who gave it up.
pub(super) fn refusal(report: Report) -> Option<Code> {
    let ours = matches!(
        report.code,
        Code::RD_KAFKA_RESP_ERR__PURGE_QUEUE
            | Code::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT
            | Code::RD_KAFKA_RESP_ERR__FATAL
    );
    (report.status != Status::Persisted && !ours).then_some(report.code)
}

/// Whether librdkafka calls a record not persisted without knowing: it could not read the answer, or knows no
/// name for the error in it.
fn is_doubtful(code: Code) -> bool {
    matches!(
        code,
        Code::RD_KAFKA_RESP_ERR_UNKNOWN
            | Code::RD_KAFKA_RESP_ERR__BAD_MSG
            | Code::RD_KAFKA_RESP_ERR__UNDERFLOW
    )
}

fn reason(code: Code) -> Failed {
    match code {
        Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE
        | Code::RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE
        | Code::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE => Failed::TooLarge,
        Code::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT
        | Code::RD_KAFKA_RESP_ERR__TIMED_OUT
        | Code::RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE
        | Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT => Failed::TimedOut,
        Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
        | Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED
        | Code::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED
        | Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
        | Code::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION
        | Code::RD_KAFKA_RESP_ERR__AUTHENTICATION
        | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
        | Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION => Failed::NotAuthorized,
        Code::RD_KAFKA_RESP_ERR__PURGE_QUEUE | Code::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT => {
            Failed::Purged
        }
        _ => Failed::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn booked(code: Code, status: Status, acks: Acks) -> Outcome {
        let mut outcome = Outcome::default();
        let report = Report {
            slot: 0,
            record: 0,
            code,
            status,
        };
        book(&mut outcome, report, acks);
        outcome
    }

    #[test]
    fn a_refusal_is_told_from_what_we_gave_up() {
        let refused = |code, status| {
            refusal(Report {
                slot: 0,
                record: 0,
                code,
                status,
            })
        };
        let gone = Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
        assert_eq!(refused(gone, Status::NotPersisted), Some(gone));
        let ok = Code::RD_KAFKA_RESP_ERR_NO_ERROR;
        assert_eq!(refused(ok, Status::Persisted), None);
        let purged = Code::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT;
        assert_eq!(refused(purged, Status::PossiblyPersisted), None);
    }

    #[test]
    fn without_acks_nothing_is_delivered() {
        let ok = Code::RD_KAFKA_RESP_ERR_NO_ERROR;
        assert_eq!(booked(ok, Status::Persisted, Acks::None).unconfirmed, 1);
        assert_eq!(booked(ok, Status::Persisted, Acks::None).delivered, 0);
        assert_eq!(booked(ok, Status::Persisted, Acks::Leader).delivered, 1);
    }

    #[test]
    fn an_error_counts_by_what_became_of_the_record_and_then_by_its_reason() {
        let timed_out = Code::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT;
        let sent = booked(timed_out, Status::PossiblyPersisted, Acks::All);
        assert_eq!(sent.possibly_persisted, 1);
        assert_eq!(sent.not_persisted, [0; 6]);
        let unsent = booked(timed_out, Status::NotPersisted, Acks::All);
        assert_eq!(unsent.not_persisted[Failed::TimedOut as usize], 1);
        let unread = Code::RD_KAFKA_RESP_ERR__BAD_MSG;
        let unread = booked(unread, Status::NotPersisted, Acks::All);
        assert_eq!(unread.possibly_persisted, 1);
        let large = Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        let large = booked(large, Status::NotPersisted, Acks::All);
        assert_eq!(large.not_persisted[Failed::TooLarge as usize], 1);
        let twice = Code::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
        assert_eq!(booked(twice, Status::Persisted, Acks::All).delivered, 1);
    }
}
