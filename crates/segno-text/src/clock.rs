//! The time a template may ask for, given by the caller so that this crate reads no clock.

/// A moment with the offset of the caller's time zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DateTime {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub unix_seconds: i64,
    /// Seconds to add for local time.
    pub utc_offset_seconds: i32,
}

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment taken apart in the Gregorian calendar.
struct Civil {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// 0 is Sunday.
    weekday: usize,
    /// 1 to 366.
    day_of_year: i64,
}

impl DateTime {
    /// Formats as C's `strftime` does in the "C" locale. Known: `%Y %y %m %d %e %j %H %I %M %S %f %p %A %a %w %u %B
    /// %b %h %Z %z %D %F %T %R %c %x %X %s %n %t %%`, with `-` after the percent sign for no padding; others stay
    /// as written.
    pub fn format(&self, pattern: &str) -> String {
        let civil = self.civil();
        let mut out = String::new();
        let mut rest = pattern.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut ahead = rest.clone();
            let mut code = ahead.next();
            let bare = code == Some('-');
            if bare {
                code = ahead.next();
            }
            match code.and_then(|code| self.field(&civil, code, bare)) {
                Some(text) => {
                    out.push_str(&text);
                    rest = ahead;
                }
                None => out.push('%'),
            }
        }
        out
    }

    fn field(&self, civil: &Civil, code: char, bare: bool) -> Option<String> {
        let number = |value: i64, width: usize| {
            if bare { value.to_string() } else { format!("{value:0width$}") }
        };
        let weekday = WEEKDAYS[civil.weekday];
        let month = MONTHS[civil.month - 1];
        let hour12 = (civil.hour + 11) % 12 + 1;
        Some(match code {
            'Y' => number(civil.year, 4),
            'y' => number(civil.year.rem_euclid(100), 2),
            'm' => number(civil.month as i64, 2),
            'd' => number(civil.day, 2),
            'e' if bare => civil.day.to_string(),
            'e' => format!("{:2}", civil.day),
            'j' => number(civil.day_of_year, 3),
            'H' => number(civil.hour, 2),
            'I' => number(hour12, 2),
            'M' => number(civil.minute, 2),
            'S' => number(civil.second, 2),
            'f' => "000000".into(),
            'p' => if civil.hour < 12 { "AM" } else { "PM" }.into(),
            'A' => weekday.into(),
            'a' => weekday[..3].into(),
            'w' => civil.weekday.to_string(),
            'u' => (if civil.weekday == 0 { 7 } else { civil.weekday }).to_string(),
            'B' => month.into(),
            'b' | 'h' => month[..3].into(),
            'Z' if self.utc_offset_seconds == 0 => "UTC".into(),
            'Z' | 'z' => {
                let minutes = self.utc_offset_seconds / 60;
                let sign = if minutes < 0 { '-' } else { '+' };
                let minutes = minutes.unsigned_abs();
                format!("{sign}{:02}{:02}", minutes / 60, minutes % 60)
            }
            'D' | 'x' => self.format("%m/%d/%y"),
            'F' => self.format("%Y-%m-%d"),
            'T' | 'X' => self.format("%H:%M:%S"),
            'R' => self.format("%H:%M"),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            's' => self.unix_seconds.to_string(),
            'n' => "\n".into(),
            't' => "\t".into(),
            '%' => "%".into(),
            _ => return None,
        })
    }

    fn civil(&self) -> Civil {
        let local = self.unix_seconds.saturating_add(i64::from(self.utc_offset_seconds));
        let days = local.div_euclid(86_400);
        let second_of_day = local.rem_euclid(86_400);
        // Years are counted from March, so that the leap day ends one; eras of 400 years are all alike.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let day = day_from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let day_of_year = if month > 2 { day_from_march + 60 + i64::from(leap) } else { day_from_march - 305 };
        Civil {
            year,
            month: month as usize,
            day,
            hour: second_of_day / 3_600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            weekday: (days + 4).rem_euclid(7) as usize,
            day_of_year,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_seconds: i64) -> DateTime {
        DateTime { unix_seconds, utc_offset_seconds: 0 }
    }

    #[test]
    fn formats_like_the_c_library() {
        // The expected strings are those of Python's datetime.strftime.
        let leap = at(1_709_210_096);
        assert_eq!(leap.format("%Y-%m-%d %H:%M:%S"), "2024-02-29 12:34:56");
        assert_eq!(leap.format("%A, %d %B %Y, day %j"), "Thursday, 29 February 2024, day 060");
        assert_eq!(leap.format("%a %b %-d %I%p %y %%"), "Thu Feb 29 12PM 24 %");
        assert_eq!(at(0).format("%F %T %w %u"), "1970-01-01 00:00:00 4 4");
        assert_eq!(at(-1).format("%F %T"), "1969-12-31 23:59:59");
        assert_eq!(at(1_735_603_200).format("%d %b %Y %j"), "31 Dec 2024 366");
        assert_eq!(at(0).format("%Q %-Q %"), "%Q %-Q %");
    }

    #[test]
    fn local_time_moves_the_date() {
        let time = DateTime { unix_seconds: 0, utc_offset_seconds: -5 * 3600 - 1800 };
        assert_eq!(time.format("%F %R %z"), "1969-12-31 18:30 -0530");
    }

    #[test]
    fn no_moment_panics() {
        for seconds in [i64::MIN, i64::MIN / 2, i64::MAX] {
            at(seconds).format("%c %j");
        }
    }
}
