//! Launch times, to tell one boot of an instance from another.

/// Seconds since 1970 of an RFC 3339 time in UTC (`2026-01-31T23:59:59Z`, fractions ignored), or `None`.
/// EC2 states the same launch as `pendingTime` in the identity document and as `LaunchTime` in descriptions, with
/// different fractions, so whole seconds are what can be compared.
#[must_use]
pub fn seconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split('.').next()?.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    valid.then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar: years begin in March, so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_as_ec2_writes_them() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-02-29T12:00:01Z"), Some(951_825_601));
        assert_eq!(seconds("2026-11-22T16:27:22.000Z"), Some(1_795_364_842));
        assert_eq!(seconds("2026-11-22T16:27:22+00:00"), seconds("2026-11-22T16:27:22Z"));
        for bad in [
            "",
            "2026-11-22",
            "2026-11-22T16:27:22",
            "2026-13-22T16:27:22Z",
            "2026-11-22T16:27:22+09:00",
            "x-y-zTa:b:cZ",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
