//! Dates and times as people write them (ISO 8601, the part of it in RFC 3339).

/// Milliseconds since 1970 of `YYYY-MM-DD`, or of `YYYY-MM-DDTHH:MM[:SS[.FFF]]` with `Z`, `+HH:MM`, `-HH:MM`
/// or nothing behind it. Nothing means UTC, as it does to `kafka-consumer-groups`. None for any other
/// text, and for days and times that do not exist.
pub fn parse_ms(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let days = days_since_1970(date)?;
    let ms = match time {
        Some(time) => time_ms(time)?,
        None => 0,
    };
    Some(days * 86_400_000 + ms)
}

/// Exactly so many digits.
fn digits(text: &str, count: usize) -> Option<i64> {
    let good = text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    good.then(|| text.parse().ok())?
}

fn days_since_1970(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (year, month, day) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month - 1).ok()?)?;
    if !(1..=length).contains(&day) {
        return None;
    }
    // Leap days of all years before this one, counted from year 1.
    let leap_days = |year: i64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let years = (year - 1970) * 365 + leap_days(year) - leap_days(1970);
    let before: i64 = lengths[..(month - 1) as usize].iter().sum();
    (year >= 1).then_some(years + before + day - 1)
}

fn time_ms(time: &str) -> Option<i64> {
    let (time, offset_minutes) = if let Some(time) = time.strip_suffix('Z') {
        (time, 0)
    } else if let Some(at) = time.find(['+', '-']) {
        let (time, offset) = time.split_at(at);
        let (hours, minutes) = offset[1..].split_once(':')?;
        let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
        let all = (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)?;
        (time, if offset.starts_with('-') { -all } else { all })
    } else {
        (time, 0)
    };
    let mut parts = time.splitn(3, ':');
    let (hours, minutes) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let (seconds, fraction) = match parts.next() {
        None => (0, 0),
        Some(rest) => {
            let (seconds, fraction) = rest.split_once('.').unwrap_or((rest, "0"));
            let size = fraction.len();
            // Digits beyond the millisecond are cut off.
            let kept = digits(fraction, size)
                .filter(|_| (1..=9).contains(&size))
                .map(|n| n * 1_000 / 10_i64.pow(size as u32))?;
            (digits(seconds, 2)?, kept)
        }
    };
    let exists = hours < 24 && minutes < 60 && seconds < 60;
    exists.then_some(((hours * 60 + minutes - offset_minutes) * 60 + seconds) * 1_000 + fraction)
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
            "2026-01-01T10:00:60",
            "2026-01-01T10:00:00.",
            "2026-01-01T10:00+2",
            "2026-01-01 10:00",
            "0000-01-01",
            "2026-01-01T10:00:00.x",
            "２026-01-01",
        ] {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }
}
