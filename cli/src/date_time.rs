//! Dates and times as people write them (ISO 8601, the part of it in RFC 3339).

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Milliseconds since 1970 of `YYYY-MM-DD`, or of `YYYY-MM-DDTHH:MM[:SS[.FFF]]` with `Z`, `+HH:MM`, `-HH:MM`
/// or nothing behind it; a space does for the `T`. Nothing means UTC, as it does to `kafka-consumer-groups`. None for any other
/// text, and for days and times that do not exist.
pub fn parse_ms(text: &str) -> Option<i64> {
    let in_utc = || {
        TimeZone::UTC
            .to_timestamp(text.parse::<DateTime>().ok()?)
            .ok()
    };
    let instant = text.parse::<Timestamp>().ok().or_else(in_utc)?;
    // Rounded down, also before 1970.
    Some(instant.as_nanosecond().div_euclid(1_000_000) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date_1() {
        for (text, ms) in [
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400_000),
            ("2001-03-01T00:00Z", 983_404_800_000),
            ("2026-11-25T13:30:36", 1_795_613_436_000),
            ("2026-11-25T13:30:36.5Z", 1_795_613_436_500),
            ("2026-11-25T15:30:36.123456+02:00", 1_795_613_436_123),
            ("2026-11-25T08:00:36-05:30", 1_795_613_436_000),
            ("1969-12-31T23:59:59Z", -1_000),
            ("2026-11-25 13:30:36", 1_795_613_436_000),
            // A leap second counts as the one before it.
            ("2016-12-31T23:59:60Z", 1_483_228_799_000),
        ] {
            assert_eq!(parse_ms(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026",
            "2026-1-2",
            "2026-13-01",
            "2026-00-01",
            "2025-02-29",
            "1900-02-29",
            "2026-01-01-01",
            "2026-01-01T",
            "2026-01-01T24:00",
            "2026-01-01T10:60",
            "2026-01-01T1:00",
            "2026-01-01T10:00:00.",
            "2026-01-01T10:00:00.x",
            "２026-01-01",
        ] {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }
}
