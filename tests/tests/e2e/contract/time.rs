//! Times as the API writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, by the wall clock: the API speaks of its times.
#[expect(clippy::disallowed_methods, reason = "the server under test is another process and has the same clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// RFC 3339 in UTC with milliseconds. Texts of this form are ordered as their times are.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // The civil calendar from a count of days: eras of 400 years that begin in March, so that a leap day ends its year.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// The time so far from now.
pub fn from_now(distance: Duration) -> String {
    rfc3339(now() + distance)
}

/// The time so long ago.
pub fn ago(distance: Duration) -> String {
    rfc3339(now() - distance)
}

#[test]
fn known_times_are_written_as_everybody_writes_them() {
    let at = |seconds: u64| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
    assert_eq!(at(1_700_000_000), "2023-11-14T22:13:20.000Z");
}
