//! The moments of a cron schedule in a time zone, as in Kubernetes' CronJob.
//!
//! When clocks are set forward, a fixed time of day that does not exist is made up for by the first moment after it. When they
//! are set back, a fixed time of day that comes twice is taken once. What recurs within a day ("*/30 * * * *") goes by the time
//! that passes.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};

/// Why a text is no schedule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecurrenceError {
    /// It is none.
    #[error(
        "must have five fields: minute, hour, day of the month, month, day of the week, such as \"30 3 * * *\" ({0})"
    )]
    Malformed(String),
    /// It names no day that there is.
    #[error("never comes: no month has such a day")]
    Never,
}

/// Moments that recur, whole seconds each.
#[derive(Clone, Debug)]
pub struct Recurrence {
    cron: Cron,
    zone: TimeZone,
}

impl Recurrence {
    /// The moments of this schedule in this time zone.
    pub fn parse(schedule: &str, zone: TimeZone) -> Result<Self, RecurrenceError> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(schedule).map_err(|error| RecurrenceError::Malformed(error.to_string()))?;
        let recurrence = Self { cron, zone };
        // days recur after 400 years at the latest, and those that do not are sought for thousands
        recurrence.next(Timestamp::UNIX_EPOCH).map(|_| recurrence).ok_or(RecurrenceError::Never)
    }

    /// The first moment after this one.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&after, false).ok().map(|moment| moment.timestamp())
    }

    /// The last moment that is not after this one.
    pub fn latest(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(self.zone.clone());
        self.cron.find_previous_occurrence(&now, true).ok().map(|moment| moment.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A zone as the tz database has it, from its POSIX rule: tests need no database.
    fn zurich() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn in_zurich(schedule: &str) -> Recurrence {
        Recurrence::parse(schedule, zurich()).unwrap()
    }

    fn moments(recurrence: &Recurrence, from: &str, count: usize) -> Vec<String> {
        let next = |moment: &Timestamp| recurrence.next(*moment);
        std::iter::successors(next(&at(from)), next).take(count).map(|moment| moment.to_string()).collect()
    }

    #[test]
    fn moments_are_in_the_time_zone() {
        let recurrence = in_zurich("30 3 * * *");
        let expected = ["2026-01-01T02:30:00Z", "2026-01-02T02:30:00Z"];
        assert_eq!(moments(&recurrence, "2026-01-01T00:00:00Z", 2), expected);
        assert_eq!(moments(&recurrence, "2026-07-01T00:00:00Z", 1), ["2026-07-01T01:30:00Z"]);
        assert_eq!(recurrence.latest(at("2026-01-02T02:29:59.9Z")), Some(at("2026-01-01T02:30:00Z")));
        assert_eq!(recurrence.latest(at("2026-01-02T02:30:00Z")), Some(at("2026-01-02T02:30:00Z")));
        assert_eq!(recurrence.next(at("2026-01-02T02:30:00Z")), Some(at("2026-01-03T02:30:00Z")));
        assert_eq!(recurrence.latest(at("2026-01-02T02:30:00.5Z")), Some(at("2026-01-02T02:30:00Z")));
        assert_eq!(recurrence.next(at("2026-01-02T02:30:00.5Z")), Some(at("2026-01-03T02:30:00Z")));
    }

    /// Clocks go from 2:00 to 3:00 on 29 March 2026, at 1:00 UTC.
    #[test]
    fn a_time_that_is_left_out_is_made_up_for_once() {
        let recurrence = in_zurich("30 2 * * *");
        let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        assert_eq!(moments(&recurrence, "2026-03-28T00:00:00Z", 3), expected);
        assert_eq!(recurrence.latest(at("2026-03-29T00:59:59Z")), Some(at("2026-03-28T01:30:00Z")));
        assert_eq!(recurrence.latest(at("2026-03-29T01:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
        assert_eq!(recurrence.latest(at("2026-03-29T05:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
        let hourly = in_zurich("0 * * * *");
        let expected = ["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"];
        assert_eq!(moments(&hourly, "2026-03-28T23:30:00Z", 3), expected);
    }

    /// Clocks go from 3:00 to 2:00 on 25 October 2026, at 1:00 UTC.
    #[test]
    fn a_time_that_comes_twice_is_taken_once_and_hours_all_the_same() {
        let recurrence = in_zurich("30 2 * * *");
        let expected = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        assert_eq!(moments(&recurrence, "2026-10-24T12:00:00Z", 2), expected);
        assert_eq!(recurrence.latest(at("2026-10-25T01:45:00Z")), Some(at("2026-10-25T00:30:00Z")));
        let hourly = in_zurich("0 * * * *");
        let expected = ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z", "2026-10-25T03:00:00Z"];
        assert_eq!(moments(&hourly, "2026-10-24T23:30:00Z", 4), expected);
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "3",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * * 13 *",
            "* * 0 * *",
            "a b c d e",
            "@every 1h",
            "@",
            "*/0 * * * *",
            "TZ=UTC 0 * * * *",
            "5-1 * * * *",
            "-1 * * * *",
            "9999999999999999999 * * * *",
        ] {
            let error = Recurrence::parse(text, TimeZone::UTC).unwrap_err();
            assert!(matches!(error, RecurrenceError::Malformed(_)), "{text:?}: {error:?}");
        }
        for text in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            let begun = Instant::now();
            assert_eq!(Recurrence::parse(text, TimeZone::UTC).unwrap_err(), RecurrenceError::Never, "{text}");
            assert!(begun.elapsed() < Duration::from_secs(1), "{text} is found out in time: {:?}", begun.elapsed());
        }
        for text in ["@daily", "*/5 8-18 * * mon-fri", "0 0 29 2 *", "0 0 1 jan *", "0 0 * * 7", "15,45 0 1 */3 *"] {
            assert!(Recurrence::parse(text, TimeZone::UTC).is_ok(), "{text}");
        }
    }

    proptest! {
        /// Whatever users write is told in bounded time, and its moments follow each other.
        #[test]
        fn moments_go_forward(text in "[0-9*,/-]{1,5}( [0-9*,/L#W?+-]{1,5}){4}", now in 1_700_000_000i64..2_000_000_000) {
            if let Ok(recurrence) = Recurrence::parse(&text, zurich()) {
                let now = Timestamp::from_second(now).unwrap();
                let next = recurrence.next(now).unwrap();
                prop_assert!(next > now);
                if let Some(latest) = recurrence.latest(now) {
                    prop_assert!(latest <= now);
                    prop_assert_eq!(recurrence.next(latest), Some(next));
                }
                prop_assert_eq!(recurrence.latest(next), Some(next));
            }
        }
    }
}
